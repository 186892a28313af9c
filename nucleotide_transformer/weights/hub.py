"""The models that have a name, and how files come from the Hugging Face hub or its cache.

Sizes of the released models are those of the files' own `hyperparams.json`, which the public
documentation leaves out; the numbers of parameters agree with the sizes of the published files.
"""

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import huggingface_hub
from huggingface_hub import constants, errors

from nucleotide_transformer.config import ModelConfig
from nucleotide_transformer.errors import InputError, MissingInputError

Family = Literal["v1", "v2", "agro", "codon"]

PACKAGED = "10M_multi_species_v2"
"""The model that comes with this package, and that is meant where none is named."""

RELEASED_LICENSE, PACKAGED_LICENSE = "cc-by-nc-sa-4.0", "apache-2.0"
"""Of the weights that InstaDeep released, and of those that this project trained."""

_V1 = ModelConfig(
    vocabulary="v1",
    num_layers=24,
    embed_dim=1280,
    num_heads=20,
    ffn_dim=5120,
    ffn_activation="gelu",
    ffn_gated=False,
    ffn_bias=True,
    position="learned",
    max_positions=1000,
    token_dropout=True,
)
_V1_LARGE = dataclasses.replace(_V1, num_layers=32, embed_dim=2560, ffn_dim=10240)
_AGRO = dataclasses.replace(
    _V1, num_layers=40, embed_dim=1500, max_positions=1024, token_dropout=False
)
_V2 = ModelConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReleasedModel:
    """A model that has a name."""

    repository: str | None
    """On the Hugging Face hub; None if its files come with this package."""
    family: Family
    """v1: learned positions and GELU; v2: rotary and SwiGLU; agro: v1 for plants; codon: v2 with
    3-mers."""
    config: ModelConfig
    """Architecture; the layer-norm epsilon is that of the JAX files."""
    license: str = RELEASED_LICENSE
    """Of the weights, by its short name on the hub."""


def _released(family: Family, suffix: str, config: ModelConfig) -> ReleasedModel:
    return ReleasedModel(repository=f"InstaDeepAI/{suffix}", family=family, config=config)


_NT = "nucleotide-transformer"

RELEASED = MappingProxyType(
    {
        "500M_human_ref": _released("v1", f"{_NT}-500m-human-ref", _V1),
        "500M_1000G": _released("v1", f"{_NT}-500m-1000g", _V1),
        "2B5_1000G": _released("v1", f"{_NT}-2.5b-1000g", _V1_LARGE),
        "2B5_multi_species": _released("v1", f"{_NT}-2.5b-multi-species", _V1_LARGE),
        "50M_multi_species_v2": _released(
            "v2", f"{_NT}-v2-50m-multi-species", dataclasses.replace(_V2, num_layers=12)
        ),
        "100M_multi_species_v2": _released("v2", f"{_NT}-v2-100m-multi-species", _V2),
        "250M_multi_species_v2": _released(
            "v2",
            f"{_NT}-v2-250m-multi-species",
            dataclasses.replace(_V2, num_layers=24, embed_dim=768, ffn_dim=3072),
        ),
        "500M_multi_species_v2": _released(
            "v2",
            f"{_NT}-v2-500m-multi-species",
            dataclasses.replace(_V2, num_layers=29, embed_dim=1024, ffn_dim=4096),
        ),
        "1B_agro_nt": _released("agro", "agro-nucleotide-transformer-1b", _AGRO),
        "codon_nt": _released(
            "codon",
            f"{_NT}-v2-50m-3mer-multi-species",
            dataclasses.replace(_V2, k=3, num_layers=12),
        ),
        PACKAGED: ReleasedModel(
            repository=None,
            family="v2",
            config=dataclasses.replace(
                _V2, num_layers=6, embed_dim=320, num_heads=5, ffn_dim=832, max_positions=256
            ),
            license=PACKAGED_LICENSE,
        ),
    }
)
"""Every released model by its public name, and the one that comes with this package."""


def find_released(name: str) -> ReleasedModel:
    """Returns a model by its public name.

    Raises:
        InputError: for another name, with the nearest one.
    """
    if name in RELEASED:
        return RELEASED[name]
    by_folded = {known.casefold(): known for known in RELEASED}
    near = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.5)
    hint = f"did you mean {by_folded[near[0]]}? " if near else ""
    raise InputError(f"{name!r} is no released model: {hint}There are {', '.join(RELEASED)}")


def describe_origin(source: str) -> tuple[str, str | None]:
    """Returns where a model is from and its licence, given its name or repository.

    The repository, or the name of one that comes with this package. For anything else: the source
    itself, and None for a licence that is not known.
    """
    for name, released in RELEASED.items():
        place = released.repository or name
        if source.casefold() in (name.casefold(), place.casefold()):
            return place, released.license
    return source, None


def download(
    repository: str,
    patterns: Sequence[str],
    *,
    revision: str | None = None,
    cache: Path | None = None,
) -> Path:
    """Fetches files of a repository into the cache of huggingface_hub, or finds them there.

    Args:
        repository: owner and name.
        patterns: names of the files; those that the repository lacks are passed over.
        revision: branch, tag or commit; the main branch by default.
        cache: folder of the cache; huggingface_hub's own by default (`HF_HOME` moves it).

    Raises:
        MissingInputError: if there is no network and the cache does not have it; says what to do.
        InputError: if the hub has no such repository or revision, or does not let us read it.
    """
    try:
        folder = huggingface_hub.snapshot_download(
            repository, allow_patterns=list(patterns), revision=revision, cache_dir=cache
        )
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        place = f"{repository} at revision {revision}" if revision else repository
        raise InputError(f"{place}: the hub has no such repository, or it needs a login") from error
    except errors.HFValidationError as error:
        raise InputError(f"{repository!r} is no name of a hub repository") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        where = cache or constants.HF_HUB_CACHE
        raise MissingInputError(
            f"{repository}: no such folder, not in the cache ({where}), and the hub can't be"
            f" reached; where there is a network run `hf download {repository} --local-dir FOLDER`,"
            " copy FOLDER to this machine and give its path in place of the name"
        ) from error
    except errors.HfHubHTTPError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{repository}: the hub refused ({reason:.200})") from error
    return Path(folder)
