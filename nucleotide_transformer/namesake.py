"""The published package has the same import name: installed together, the two overwrite files."""

import importlib.metadata
import warnings

PUBLISHED, OURS = "nucleotide_transformer", "nucleotide-transformer-jax"
"""Names of the two distributions."""


def warn_of_namesake() -> None:
    """Warns if the published package is installed in the same environment."""
    try:
        version = importlib.metadata.version(PUBLISHED)
    except importlib.metadata.PackageNotFoundError:
        return
    warnings.warn(
        f"{PUBLISHED} {version} of InstaDeep is installed here, too. Its files and those of {OURS}"
        " have the same names, and the later installation overwrote the earlier one: run `pip"
        f" uninstall {PUBLISHED}`, then install {OURS} again; or keep each in an environment of its"
        " own",
        stacklevel=3,
    )
