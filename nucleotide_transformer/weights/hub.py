"""The models that have a name, and how files come from the Hugging Face hub or its cache.

Sizes of the released models are those of the files' own `hyperparams.json`, which the public
documentation leaves out; the numbers of parameters agree with the sizes of the published files.
"""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from nucleotide_transformer.config import ComputeConfig, ModelConfig
from nucleotide_transformer.errors import InputError, MissingInputError, require
from nucleotide_transformer.files import digest_file

PACKAGED = "10M_multi_species_v2"
"""The model that comes with this package, and that is meant where none is named."""

RELEASED_LICENSE, PACKAGED_LICENSE = "cc-by-nc-sa-4.0", "apache-2.0"
"""Of the weights that InstaDeep released, and of those that this project trained."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadConfig:
    """What every command that loads a model is told of it."""

    model: str = PACKAGED
    """Name of a model, hub repository, or folder: what `load_pretrained` takes. By default the
    model that comes with the package."""
    compute: ComputeConfig = ComputeConfig()
    """Precision and form of the computation."""


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
_SHAPING = (
    *("vocabulary", "k", "num_layers", "embed_dim", "num_heads", "ffn_dim"),
    *("ffn_gated", "ffn_bias", "position", "max_positions"),
)
"""Fields of a config that every layout says in the same way."""


class PinnedFile(NamedTuple):
    """What a file of a pinned revision is."""

    size: int
    """In bytes."""
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReleasedModel:
    """A model that has a name."""

    repository: str | None
    """On the Hugging Face hub; None if its files come with this package."""
    config: ModelConfig
    """Architecture; the layer-norm epsilon is that of the JAX files."""
    license: str = RELEASED_LICENSE
    """Of the weights, by its short name on the hub."""
    revision: str | None = None
    """Commit of the repository that the name stands for; None where it is not known here."""
    files: Mapping[str, PinnedFile] = dataclasses.field(default_factory=dict)
    """Those of that commit whose content is known here."""


def _released(suffix: str, config: ModelConfig, **pins: Any) -> ReleasedModel:
    return ReleasedModel(repository=f"InstaDeepAI/{suffix}", config=config, **pins)


_NT = "nucleotide-transformer"

# Where the commits are from: each is what public code of at least two projects pins (two files of
# one project for agro, one file for the 500M of v1), all read in November 2026. That of 2B5_1000G
# was found nowhere in full. Sizes and digests are a third party's record of two repositories, and
# for agro the hub's own pointer at that commit, which added the JAX files; the sizes are those that
# the numbers of parameters ask for.
RELEASED: Mapping[str, ReleasedModel] = MappingProxyType(
    {
        "500M_human_ref": _released(
            f"{_NT}-500m-human-ref",
            _V1,
            revision="f87b5d7233295242e79c951873d290f4cf992045",
        ),
        "500M_1000G": _released(
            f"{_NT}-500m-1000g",
            _V1,
            revision="a1fcafab929cf0f835adeb6fb7dd305607dc6349",
        ),
        "2B5_1000G": _released(f"{_NT}-2.5b-1000g", _V1_LARGE),
        "2B5_multi_species": _released(
            f"{_NT}-2.5b-multi-species",
            _V1_LARGE,
            revision="b746b125aacd1b0970c05a32fd71ba726754542e",
        ),
        "50M_multi_species_v2": _released(
            f"{_NT}-v2-50m-multi-species",
            dataclasses.replace(_V2, num_layers=12),
            revision="81b29e5786726d891dbf929404ef20adca5b36f1",
            files={
                "jax_model/hyperparams.json": PinnedFile(
                    659, "d7b8c2682aaefbd1d693fa81b63b21e1a080e4b19fd263060d0c2990c23afad3"
                ),
                "jax_model/pytree_ckpt.joblib": PinnedFile(
                    219_437_507, "3015d19197e0d8e4dcddc03bd819e71491cdeca604ec69633cdb9e662566791f"
                ),
                "model.safetensors": PinnedFile(
                    223_642_688, "17e75af297556ea56828716d8aa539e8f12b8b625547204b74171ab91aa33569"
                ),
            },
        ),
        "100M_multi_species_v2": _released(
            f"{_NT}-v2-100m-multi-species",
            _V2,
            revision="f34324c6fde36a4f635f0f1f06cac5d25acd6798",
        ),
        "250M_multi_species_v2": _released(
            f"{_NT}-v2-250m-multi-species",
            dataclasses.replace(_V2, num_layers=24, embed_dim=768, ffn_dim=3072),
            revision="c0f0359229f36ff6bc3a021247eefe0a9c344bd1",
        ),
        "500M_multi_species_v2": _released(
            f"{_NT}-v2-500m-multi-species",
            dataclasses.replace(_V2, num_layers=29, embed_dim=1024, ffn_dim=4096),
            revision="06615c1660c892fc199840c18123f8385b3542a8",
        ),
        "1B_agro_nt": _released(
            "agro-nucleotide-transformer-1b",
            _AGRO,
            revision="b0e1ea1f53a2bf5bb29f8eab7a7e553bf06c1ab1",
            files={
                "jax_model/pytree_ckpt.joblib": PinnedFile(
                    3_965_106_595,
                    "1499f2c786b32db279c606e3a81099cc57126337cb0b0240ed271b79f7ccfbc4",
                ),
            },
        ),
        "codon_nt": _released(
            f"{_NT}-v2-50m-3mer-multi-species",
            dataclasses.replace(_V2, k=3, num_layers=12),
            revision="ff82eaf931e483feeb6bf7ecf03f1febe6b2fe76",
            files={
                "jax_model/hyperparams.json": PinnedFile(
                    739, "f7db5650deb52aa77febc86c85856b2e3ec60387f376d20cca094f0b127fc0c0"
                ),
                "jax_model/pytree_ckpt.joblib": PinnedFile(
                    202_906_307, "889877863cf47d0a2cfcf41eaafd97f91def86bfc745c41c30b3a88f68bec340"
                ),
            },
        ),
        PACKAGED: ReleasedModel(
            repository=None,
            config=dataclasses.replace(
                _V2, num_layers=6, embed_dim=320, num_heads=5, ffn_dim=832, max_positions=256
            ),
            license=PACKAGED_LICENSE,
        ),
    }
)
"""Every released model by its public name, and the one that comes with this package."""


def find_named(source: object) -> ReleasedModel | None:
    """Returns the model whose name or repository a text is; None for anything else.

    A folder of that name does not count: it is given as a `Path`, or with `./` before it.
    """
    if not isinstance(source, str):
        return None
    for name, released in RELEASED.items():
        repository = released.repository
        if source == name or (repository and source.casefold() == repository.casefold()):
            return released
    return None


def find_released(name: str) -> ReleasedModel:
    """Returns a model by its public name.

    Raises:
        InputError: for another name, with the nearest one.
    """
    if name in RELEASED:
        return RELEASED[name]
    by_folded = {known.casefold(): known for known in RELEASED}
    near = [folded for folded in by_folded if name and folded.startswith(name.casefold())]
    near = near or difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.5)
    hint = f"did you mean {by_folded[near[0]]}? " if near else ""
    raise InputError(f"{name!r} is no released model: {hint}There are {', '.join(RELEASED)}")


def describe_origin(source: object) -> tuple[str, str | None]:
    """Returns where a model is from and its licence, given its name or repository.

    The repository, or the name of one that comes with this package. For anything else: the source
    itself, and None for a licence that is not known.
    """
    released = find_named(source)
    if released is None:
        return str(source), None
    return released.repository or str(source), released.license


def check_config(folder: Path, config: ModelConfig, released: ReleasedModel, *, jax: bool) -> None:
    """Compares a config with that of the released model that it should be.

    Args:
        folder: for the message.
        config: what its files say.
        released: of the table.
        jax: whether these are the JAX files, which the table is made from: all fields that are
            computed with are compared. Of others it is those that shape the parameters, and the
            positions.

    Raises:
        InputError: for the first field that differs.
    """
    names = [field.name for field in dataclasses.fields(ModelConfig)] if jax else list(_SHAPING)
    unused = () if config.token_dropout else ("masking_ratio", "masking_probability")
    for name in sorted(set(names) - set(unused), key=names.index):
        found, expected = getattr(config, name), getattr(released.config, name)
        rule = f"{released.repository} has {expected!r}: other files than those that were released"
        require(found == expected, f"{folder}: {name}", found, rule)


def check_files(folder: Path, released: ReleasedModel) -> None:
    """Compares files that were fetched with what is known of them.

    Raises:
        InputError: for a file of another size or SHA-256.
    """
    for name, pinned in released.files.items():
        file = folder / name
        if not file.is_file():
            continue
        size = file.stat().st_size
        rule = f"should be {pinned.size} at revision {released.revision}"
        require(size == pinned.size, f"{file}: bytes", size, rule)
        digest = digest_file(file)
        rule = f"should be {pinned.sha256} at revision {released.revision}"
        require(digest == pinned.sha256, f"{file}: SHA-256", digest, rule)


def download(
    repository: str,
    patterns: Sequence[str],
    *,
    revision: str | None = None,
    cache: Path | None = None,
    only_cached: bool = False,
) -> Path:
    """Fetches files of a repository into the cache of huggingface_hub, or finds them there.

    Args:
        repository: owner and name.
        patterns: names of the files; those that the repository lacks are passed over.
        revision: branch, tag or commit; the main branch by default.
        cache: folder of the cache; huggingface_hub's own by default (`HF_HOME` moves it).
        only_cached: don't ask the hub.

    Raises:
        MissingInputError: if there is no network and the cache does not have them; says what to do.
        InputError: if the hub has no such repository or revision, does not let us read it, or the
            download breaks off.
        OSError: if the files can't be written.
    """
    import huggingface_hub  # only here: models on this machine do without
    from huggingface_hub import constants, errors
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of its httpx

    try:
        folder = huggingface_hub.snapshot_download(
            repository,
            allow_patterns=list(patterns),
            revision=revision,
            cache_dir=cache,
            local_files_only=only_cached,
        )
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        place = f"{repository} at revision {revision}" if revision else repository
        hint = "; the newest is revision main" if revision else ""
        raise InputError(
            f"{place}: the hub has no such repository, or it needs a login{hint}"
        ) from error
    except errors.HFValidationError as error:
        raise InputError(f"{repository!r} is no name of a hub repository") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        where = cache or constants.HF_HUB_CACHE
        option = f" --revision {revision}" if revision else ""
        raise MissingInputError(
            f"{repository}: no such folder, not in the cache ({where}) or only in part, and the hub"
            f" can't be reached; where there is a network run `hf download {repository}{option}"
            " --local-dir FOLDER`, copy FOLDER to this machine and give its path in place of the"
            " name"
        ) from error
    except (HTTPError, OSError, RuntimeError) as error:  # the last is raised by hf_xet
        if getattr(error, "errno", None) is not None:
            raise  # no fault of the network: the disk is full, or not ours
        reason = f"({' '.join(str(error).split()) or type(error).__name__:.200})"
        if isinstance(error, errors.HfHubHTTPError):
            raise InputError(f"{repository}: the hub refused {reason}") from error
        rule = f"the download broke off {reason}: run it again"
        raise InputError(f"{repository}: {rule}") from error
    return Path(folder)
