"""Addresses of object stores are no paths: a folder `gs:` is never made for one."""

from pathlib import Path

import pytest

from nucleotide_transformer.config import DataConfig, PretrainConfig
from nucleotide_transformer.data.corpus import CorpusConfig, load_manifest
from nucleotide_transformer.errors import InputError


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
        assert str(error.value).startswith(f"{field} = {address!r}: must be a path of this machine")
        assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["C:/data", "a:b/c", "runs/gs/x", "./gs:/x"])
def test_what_looks_like_an_address_is_a_path(path: str) -> None:
    if path.startswith("./"):
        path = str(Path.cwd() / path)
    assert DataConfig(corpus=Path(path)).corpus == Path(path)
