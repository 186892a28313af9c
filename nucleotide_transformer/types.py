"""The letters of the shapes, and the array types that the package's signatures use.

Every array argument is annotated with these letters, or with words where a letter would say less,
so that a signature reads as a specification. `tests/conftest.py` has beartype check them at run
time.

| letter | meaning                                                             |
|--------|---------------------------------------------------------------------|
| A      | micro-batches accumulated into one update (in docstrings alone)     |
| B      | sequences of a (micro-)batch                                        |
| T      | tokens of a sequence, `<cls>` and padding included                  |
| M      | slots for masked tokens of a sequence                               |
| L      | layers                                                              |
| D      | width of the embedding                                              |
| H      | attention heads                                                     |
| K      | width of a head                                                     |
| F      | width of the feed-forward network                                   |
| FF     | width of its first product: 2 F if gated                            |
| V      | tokens of the vocabulary                                            |
| S      | sequences of an update or of a set                                  |
| G      | heads of all sequences of a batch                                   |
| N      | devices, or entries of a list that the docstring names              |
| C      | words that k letters spell; classes, or targets, of a task          |
| W      | words or windows in a sequence                                      |
| E      | numbers that go along with a sequence                               |
| J      | tokens before a change, or reading frames around it                 |
| R      | rank of a change; chains of a mixture                               |
"""

from typing import TYPE_CHECKING, Any, Literal

from jaxtyping import Bool, Float, Int, UInt, UInt8, UInt16

if TYPE_CHECKING:
    from jaxtyping import Array
    from jaxtyping import PRNGKeyArray as PRNGKey

Params = dict[str, dict[str, Any]]
"""Haiku's parameters: module name -> parameter name -> array."""

Vocabulary = Literal["v1", "v2"]
Split = Literal["train", "validation", "test"]

__all__ = [
    "Array",
    "Bool",
    "Float",
    "Int",
    "PRNGKey",
    "Params",
    "Split",
    "UInt",
    "UInt8",
    "UInt16",
    "Vocabulary",
]


def __getattr__(name: str) -> Any:
    """Imports jax with the types that need it, so that tokenizers and data do without."""
    import jaxtyping

    if name in ("Array", "PRNGKey"):
        return getattr(jaxtyping, {"PRNGKey": "PRNGKeyArray"}.get(name, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
