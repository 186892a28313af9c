"""The tensors of a file, put one at a time where the model expects them, and what is wrong."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.model import init_params
from nucleotide_transformer.types import Params

_MAX_LISTED = 20
"""Tensors that a message names."""


def expected_shapes(config: ModelConfig) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of a model's parameters by module and name, from its config alone."""
    params = jax.eval_shape(lambda key: init_params(key, config), jax.random.key(0))
    return {
        module: {name: leaf.shape for name, leaf in leaves.items()}
        for module, leaves in params.items()
    }


class ParamsBuilder:
    """Collects parameters on the device, and problems instead of raising at the first.

    Every tensor is checked, cast and copied when it comes, so that the caller can drop it before
    it reads the next: at no time is there more than the parameters and one tensor.
    """

    def __init__(
        self,
        config: ModelConfig,
        compute: ComputeConfig,
        file: Path,
        find_label: Callable[[str, str], str] = "{}/{}".format,
    ):
        """Starts without any.

        Args:
            config: architecture.
            compute: says the type of the parameters.
            file: what messages start with.
            find_label: the name that the file has for the parameter of a module.
        """
        self._file, self._dtype = file, jnp.dtype(compute.param_dtype)
        self._find_label = find_label
        self._expected = expected_shapes(config)
        self._params: Params = {}
        self._problems: dict[str, list[str]] = {}
        self._noted: set[tuple[str, str]] = set()

    def add(
        self,
        module: str,
        name: str,
        array: Shaped[np.ndarray, "..."],
        label: str,
        *,
        is_transposed: bool = False,
    ) -> None:
        """Takes a parameter, or notes why it can't be one.

        Args:
            module: Haiku module, as the model names it.
            name: parameter of that module.
            array: as the file has it.
            label: its name in the file.
            is_transposed: whether the file has its axes the other way round.
        """
        problem = self._find_problem(module, name, array, is_transposed)
        if problem:
            self.note(*problem, label, module, name)
            return
        array = np.ascontiguousarray(array.T) if is_transposed else array
        leaf = jnp.asarray(array, dtype=self._dtype)
        # Copies run in the background and hold on to what they copy.
        self._params.setdefault(module, {})[name] = leaf.block_until_ready()

    def note(self, kind: str, detail: str, label: str, module: str = "", name: str = "") -> None:
        """Notes a problem with a tensor of the file, which then does not count as missing."""
        self._problems.setdefault(kind, []).append(f"{label} {detail}".rstrip())
        self._noted.add((module, name))

    def _find_problem(
        self, module: str, name: str, array: Shaped[np.ndarray, "..."], is_transposed: bool
    ) -> tuple[str, str] | None:
        expected = self._expected.get(module, {}).get(name)
        if expected is None:
            return "unexpected", ""
        if name in self._params.get(module, {}):
            return "unexpected", "(twice)"
        expected = expected[::-1] if is_transposed else expected
        if array.shape != expected:
            return "misshapen", f"{list(array.shape)}, not {list(expected)}"
        if not jnp.issubdtype(array.dtype, jnp.floating):
            return "not of floating point", f"({array.dtype})"
        num_finite = np.count_nonzero(np.isfinite(array))
        if num_finite < array.size:
            return "non-finite", f"({array.size - num_finite} values)"
        if self._dtype == jnp.float16 and np.abs(array).max(initial=0) > jnp.finfo("float16").max:
            return "too large for float16", ""
        return None

    def finish(self) -> Params:
        """Returns the parameters, in the order of the model.

        Raises:
            InputError: one line with everything that is wrong.
        """
        for module, shapes in self._expected.items():
            for name in shapes:
                if name not in self._params.get(module, {}) and (module, name) not in self._noted:
                    self.note("missing", "", self._find_label(module, name))
        if self._problems:
            raise InputError(f"{self._file}: {describe_problems(self._problems)}")
        return {
            module: {name: self._params[module][name] for name in shapes}
            for module, shapes in self._expected.items()
        }


def describe_problems(problems: dict[str, list[str]]) -> str:
    """One line: the tensors by kind of problem, 20 at most, and how many there are."""
    total, left, parts = sum(map(len, problems.values())), _MAX_LISTED, []
    for kind, labels in problems.items():
        shown = labels[:left]
        left -= len(shown)
        more = [f"{len(labels) - len(shown)} more"] if len(labels) > len(shown) else []
        parts.append(f"{kind}: {', '.join(shown + more)}")
    return f"{total} tensor{'s' * (total != 1)} wrong; {'; '.join(parts)}"
