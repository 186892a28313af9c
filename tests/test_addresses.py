"""Addresses of object stores are no paths: a folder `gs:` is never made for one."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from small_tasks import make_model

from nucleotide_transformer import cli
from nucleotide_transformer.commands import COMMANDS
from nucleotide_transformer.config import DataConfig, PretrainConfig
from nucleotide_transformer.configfile import read_config
from nucleotide_transformer.data.corpus import CorpusConfig, load_manifest
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.fields import list_fields, strip_marker
from nucleotide_transformer.inference.embedding_files import EmbedConfig, check_files
from nucleotide_transformer.options import name_option
from nucleotide_transformer.plots import save_figure
from nucleotide_transformer.pretrained import load_pretrained

RULE = "must be a path of this machine: mount the bucket, or copy what it holds"


@pytest.mark.parametrize("address", ["gs://bucket/a/b", "s3://bucket", "https://host/x.fa.gz"])
def test_an_address_is_refused_in_one_line(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path, fasta = Path(address), Path("a.fa")
    for field, make in (
        ("output", lambda: CorpusConfig(inputs=(fasta,), output=path)),
        ("inputs", lambda: CorpusConfig(inputs=(fasta, path))),
        ("corpus", lambda: DataConfig(corpus=path)),
        ("corpus", lambda: load_manifest(path)),
        ("output", lambda: PretrainConfig(output=path)),
    ):
        with pytest.raises(InputError) as error:
            make()
        assert str(error.value) == f"{field} = {address!r}: {RULE}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_that_is_a_path_refuses_an_address(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """With an ending that the option may ask for, it is refused all the same."""
    monkeypatch.chdir(tmp_path)
    kind = COMMANDS[command].find_config()
    for field in list_fields(kind):
        if field.kind is not Path:
            continue
        for ending in ("", ".npz", ".tsv", ".parquet", ".json"):
            address, name = f"gs://bucket/x{ending}", name_option(field)
            words = [address] if field.is_positional else [name, address]
            assert cli.main([*command.split(), *words]) == 2
            message = f"error: nt {command}: {name} = {address!r}: {RULE}\n"
            assert capfd.readouterr() == ("", message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [name for name in COMMANDS if COMMANDS[name].takes_file])
def test_every_field_of_a_file_that_is_a_path_refuses_an_address(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*command.split(), "--config", "s3://bucket/x.toml"]) == 2
    message = f"error: nt {command}: --config = 's3://bucket/x.toml': {RULE}\n"
    assert capfd.readouterr() == ("", message)
    kind, file = COMMANDS[command].find_config(), tmp_path / "config.toml"
    paths = [field for field in list_fields(kind) if field.kind is Path]
    assert paths
    for field in paths:
        value = '["a.fa", "s3://bucket/x"]' if field.is_tuple else '"s3://bucket/x"'
        file.write_text(f"{field.path} = {value}\n")
        with pytest.raises(InputError) as error:
            read_config(strip_marker(kind), file)
        assert str(error.value) == f"{file}: {field.path} = 's3://bucket/x': {RULE}"


def test_functions_refuse_an_address_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an output before anything is computed, and of a model before it is looked for."""
    monkeypatch.chdir(tmp_path)
    config = EmbedConfig(input=tmp_path / "x.fa", output=Path("gs://bucket/e.npz"))
    with pytest.raises(InputError, match=r"output = 'gs://bucket/e\.npz': must be a path of this"):
        check_files(config)
    with pytest.raises(InputError, match=r"folder = 'gs://bucket/m': must be a path of this mach"):
        make_model().save_pretrained("gs://bucket/m")
    with pytest.raises(InputError, match=r"picture = 'gs://bucket/x\.png': must be a path of thi"):
        save_figure(Figure(), Path("gs://bucket/x.png"))
    with pytest.raises(InputError, match=r"model = 's3://bucket/m': must be a path of this mach"):
        load_pretrained("s3://bucket/m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["C:/data", "a:b/c", "runs/gs/x", "/data/gs:/x"])
def test_what_looks_like_an_address_is_a_path(path: str) -> None:
    assert DataConfig(corpus=Path(path)).corpus == Path(path)
