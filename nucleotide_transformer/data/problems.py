"""What is wrong with the inputs of a build: the first thing ends it, or all are told at its end."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from nucleotide_transformer.data.parallel import Report, Task, run_tasks
from nucleotide_transformer.errors import InputError

Result = TypeVar("Result")


class BadInputsError(InputError):
    """All inputs that break a rule; `errors` has what is wrong with each."""

    def __init__(self, *errors: InputError) -> None:
        super().__init__(*errors)
        self.errors = errors

    def __str__(self) -> str:
        return "; ".join(map(str, self.errors))


class Problems:
    """What is wrong with inputs, by the name of the input.

    Args:
        keep_going: collect it until `raise_all`; else whatever is found first is raised at once.
    """

    def __init__(self, *, keep_going: bool = False) -> None:
        self._keep_going = keep_going
        self._errors: dict[str, InputError] = {}

    def add(self, name: str, error: InputError) -> None:
        """Takes what is wrong with an input."""
        if not self._keep_going:
            raise error
        # Not with its traceback, which would keep the contig that was read.
        error.__context__ = None
        self._errors[name] = error.with_traceback(None)

    @contextlib.contextmanager
    def collect(self, name: str) -> Iterator[None]:
        """Takes what is raised inside for what is wrong with an input."""
        try:
            yield
        except InputError as error:
            self.add(name, error)

    def run_tasks(
        self,
        tasks: Mapping[str, Task[Result]],
        num_workers: int,
        report: Report,
        collect: Callable[[str, Result], None],
    ) -> None:
        """As `parallel.run_tasks`, of tasks by the name of their input."""

        def sort(name: str, result: Result | InputError) -> None:
            if isinstance(result, InputError):
                self.add(name, result)
            else:
                collect(name, result)

        attempts = {name: functools.partial(_attempt, task) for name, task in tasks.items()}
        run_tasks(attempts, num_workers, report, sort)

    def raise_all(self) -> None:
        """Raises a `BadInputsError` if there was anything, sorted by the names of the inputs."""
        if self._errors:
            raise BadInputsError(*(self._errors[name] for name in sorted(self._errors)))

    def __contains__(self, name: str) -> bool:
        return name in self._errors

    @property
    def is_empty(self) -> bool:
        """Whether nothing was collected."""
        return not self._errors


def _attempt(task: Task[Result], report: Report) -> Result | InputError:
    """The result of a task, or what is wrong with its input."""
    try:
        return task(report)
    except InputError as error:
        return error
