"""The tensors of a file, put one at a time where the model expects them, and what is wrong."""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.model import init_params
from nucleotide_transformer.model.stacking import name_block
from nucleotide_transformer.types import Params

MAX_COMPRESSION = 32
"""Times the size of its files that a compressed model may have. zlib makes weights 1.08 times
smaller, 7 times if nine of ten are zeros, and zeros alone 1,000 times."""
_MAX_LISTED = 20
"""Tensors that a message names."""
_MAX_NAME = 120
"""Characters of a name that a message shows."""


def expected_shapes(config: ModelConfig) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of a model's parameters by module and name, from its config alone.

    All blocks are alike: one is traced, whatever the depth.
    """
    one = dataclasses.replace(config, num_layers=1)
    params = jax.eval_shape(lambda key: init_params(key, one), jax.random.key(0))
    modules: Params = {}
    for module, leaves in params.items():
        block = module.startswith(f"{name_block(0)}/")
        for index in range(config.num_layers if block else 1):
            modules[module.replace(name_block(0), name_block(index), 1)] = leaves
    return {
        module: {name: leaf.shape for name, leaf in modules[module].items()}
        for module in sorted(modules)
    }


def count_bytes(config: ModelConfig, itemsize: int) -> int:
    """Bytes of a model's parameters, of so many bytes each."""
    shapes = expected_shapes(config).values()
    return itemsize * sum(math.prod(shape) for leaves in shapes for shape in leaves.values())


def compare_shapes(
    file: Path, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Compares names and shapes of all tensors of a file with those that it should have.

    Raises:
        InputError: one line with all that are missing, unexpected or misshapen.
    """
    problems = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": [show_name(name) for name in sorted(found.keys() - expected.keys())],
        "misshapen": [
            f"{name} {list(found[name])}, not {list(expected[name])}"
            for name in sorted(found.keys() & expected.keys())
            if found[name] != expected[name]
        ],
    }
    problems = {kind: labels for kind, labels in problems.items() if labels}
    if problems:
        raise InputError(f"{file}: {describe_problems(problems)}")


def show_name(name: object) -> str:
    """A name from a file, for a message: short, and without what would move a terminal's cursor."""
    text = str(name)
    shown = text if text.isprintable() else ascii(text)[1:-1]
    return shown if len(shown) <= _MAX_NAME else f"{shown[:_MAX_NAME]}..."


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
        if not self.accepts(module, name, is_transposed, array.shape, label):
            return
        problem = self._find_problem(array)
        if problem:
            self.note(*problem, label, module, name)
            return
        array = np.ascontiguousarray(array.T) if is_transposed else array
        leaf = jnp.asarray(array, dtype=self._dtype)
        # Copies run in the background and hold on to what they copy.
        self._params.setdefault(module, {})[name] = leaf.block_until_ready()

    def accepts(
        self, module: str, name: str, is_transposed: bool, shape: tuple[int, ...], label: str
    ) -> bool:
        """Whether a parameter of this name and shape is expected; notes why not.

        To be asked before a tensor is read: what is expected is bounded by the file's own size.
        """
        expected = self._expected.get(module, {}).get(name)
        if expected is None:
            self.note("unexpected", "", label, module, name)
            return False
        if name in self._params.get(module, {}):
            self.note("unexpected", "(twice)", label, module, name)
            return False
        expected = expected[::-1] if is_transposed else expected
        if shape != expected:
            found = list(shape) if len(shape) <= 8 else f"of {len(shape)} axes"
            self.note("misshapen", f"{found}, not {list(expected)}", label, module, name)
        return shape == expected

    def note(self, kind: str, detail: str, label: str, module: str = "", name: str = "") -> None:
        """Notes a problem with a tensor of the file, which then does not count as missing."""
        self._problems.setdefault(kind, []).append(f"{show_name(label)} {detail}".rstrip())
        self._noted.add((module, name))

    def _find_problem(self, array: Shaped[np.ndarray, "..."]) -> tuple[str, str] | None:
        if not jnp.issubdtype(array.dtype, jnp.floating):
            return "not of floating point", f"({array.dtype})"
        num_finite = np.count_nonzero(np.isfinite(array))
        if num_finite < array.size:
            return "non-finite", f"({array.size - num_finite} values)"
        if array.dtype != self._dtype:
            largest = max(float(array.max(initial=0)), -float(array.min(initial=0)))
            if largest > float(jnp.finfo(self._dtype).max):
                return f"too large for {self._dtype}", ""
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


def digest_params(params: Params) -> str:
    """SHA-256 of names, shapes and numbers in float32, whatever their order, in hexadecimal."""
    digest = hashlib.sha256()
    for module in sorted(params):
        for name in sorted(params[module]):
            array = np.ascontiguousarray(np.asarray(params[module][name], np.float32))
            digest.update(f"{module}/{name} {array.shape}\n".encode())
            digest.update(array.data)
    return digest.hexdigest()
