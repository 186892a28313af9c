"""Variants from files: VCF, BCF, TSV, CSV and Parquet, one alternative allele at a time.

VCF is read as text, line by line, so that what is written back differs in nothing but the fields
that are added; BCF is read by pysam, and comes out as VCF.
"""

import codecs
import contextlib
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from nucleotide_transformer.data.fasta import GZIP_MAGIC, check_bgzf_end
from nucleotide_transformer.data.intervals import read_lines
from nucleotide_transformer.data.tables import read_rows
from nucleotide_transformer.errors import InputError, MissingInputError, import_extra, require
from nucleotide_transformer.variants.reference import EXTRA, silence

Kind = Literal["vcf", "bcf", "tsv", "csv", "parquet"]

MISSING = "."
COLUMNS = {
    "contig": ("contig", "chrom", "chr", "chromosome"),
    "position": ("position", "pos"),
    "ref": ("ref", "reference"),
    "alt": ("alt", "alternative"),
    "name": ("name", "id"),
}
"""Names that the columns of a table may have, in any case; the last one may be left out."""
VCF_COLUMNS = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_START_BYTES = 1 << 20
"""Text at the start of a file that is gzip, in which its header is looked for."""
_SUFFIXES: dict[str, Kind] = {
    ".vcf": "vcf",
    ".vcf.gz": "vcf",
    ".vcf.bgz": "vcf",
    ".bcf": "bcf",
    ".tsv": "tsv",
    ".tsv.gz": "tsv",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".parquet": "parquet",
}


class Allele(NamedTuple):
    """One alternative allele of a record."""

    place: str
    """Where it is written: file and line, or row."""
    contig: str
    start: int
    """First nucleotide of `ref`, from 0; -1 for the telomere before it, which a VCF may name."""
    ref: str
    """Upper case."""
    alt: str
    """Upper case if it is letters; "." where the record has none."""
    name: str


class VcfText(NamedTuple):
    """A VCF as text."""

    header: list[str]
    """The lines from ##fileformat on, that of the columns last."""
    records: Iterator[tuple[int, str]]
    """The other lines, with their numbers from 1."""


def find_kind(path: Path) -> Kind:
    """The kind of a file of variants, by its name.

    Raises:
        InputError: for an unknown suffix.
    """
    name = Path(path).name.lower()
    kinds = [kind for suffix, kind in _SUFFIXES.items() if name.endswith(suffix)]
    require(bool(kinds), "vcf", str(path), f"must be a file {', '.join(_SUFFIXES)}")
    return kinds[0]


def find_kind_of_bytes(start: bytes) -> str:
    """The suffix for a file that begins so: one that `find_kind` knows, or .tsv."""
    suffix = ""
    if start.startswith(GZIP_MAGIC):
        suffix = ".gz"
        with contextlib.suppress(zlib.error):
            start = zlib.decompressobj(wbits=31).decompress(start, _START_BYTES)
    if start.startswith(b"BCF\2"):
        return ".bcf"
    if start.startswith(b"PAR1"):
        return ".parquet"
    start = start.removeprefix(codecs.BOM_UTF8)
    if start.startswith(b"##fileformat=VCF"):
        return f".vcf{suffix}"
    lines = (line for line in start.splitlines() if line and not line.startswith(b"##"))
    header = next(lines, b"")
    return f".csv{suffix}" if b"," in header and b"\t" not in header else f".tsv{suffix}"


def read_variants(path: Path) -> Iterator[Allele]:
    """Yields the alleles of a file, in its order; those of a record follow one another.

    - VCF and BCF: a record without an alternative gives one allele, ".".
    - TSV and CSV, plain or gzip, and Parquet: columns contig, position (from 1), ref, alt and, if
      there is one, name; or as `COLUMNS` has them. Lines that begin with ## are skipped.

    Raises:
        MissingInputError, InputError: in one line, with the file and the line or row.
    """
    path = Path(path)
    kind = find_kind(path)
    if kind in ("vcf", "bcf"):
        for number, line in open_vcf(path).records:
            yield from split_record(path, number, line)
    else:
        yield from _read_table(path, kind)


def open_vcf(path: Path) -> VcfText:
    """The header and the records of a VCF (plain, gzip, bgzip) or BCF."""
    path = Path(path)
    if find_kind(path) == "bcf":
        return _open_bcf(path)
    if path.is_file():
        with path.open("rb") as file:
            check_bgzf_end(path, file.read(18))
    lines = read_lines(path)
    header: list[str] = []
    for number, line in lines:
        if number == 1 and not line.startswith("##fileformat=VCF"):
            raise InputError(f"{path}: line 1: {line[:40]!r}: must begin with ##fileformat=VCF")
        header.append(line)
        if not line.startswith("##"):
            break
    if not header[-1].startswith(VCF_COLUMNS):
        place = f"{path}: line {len(header)}: {header[-1][:40]!r}"
        raise InputError(f"{place}: the header must end with the line #CHROM POS ID ... INFO")
    return VcfText(header, ((n, line) for n, line in lines if line))


def split_record(path: Path, number: int, line: str) -> list[Allele]:
    """The alleles of a line of a VCF."""
    place = f"{path}: line {number}"
    columns = line.split("\t", 8)
    if len(columns) < 8:
        rule = "must have at least 8 columns with tabs between them"
        raise InputError(f"{place}: {line[:40]!r}: {rule}")
    names = ("contig", "position", "name", "ref")
    row = dict(zip(names, columns, strict=False))
    alts = columns[4].split(",")
    return [_make_allele(place, row | {"alt": alt}, first=0) for alt in alts]


def _make_allele(place: str, row: Mapping[str, Any], *, first: int = 1) -> Allele:
    """The allele of a row, checked; its position is `first` or above."""
    position, contig = str(row["position"]), row["contig"]
    is_short = position.isascii() and position.isdecimal() and len(position) <= 10
    if not (is_short and first <= int(position) < 2**31):
        rule = f"must be an integer of {first} or above, and below 2**31"
        raise InputError(f"{place}: position {position[:20]!r}: {rule}")
    for field in ("contig", "ref", "alt"):
        if not isinstance(row[field], str) or not row[field].strip():
            raise InputError(f"{place}: {field} {row[field]!r}: must be text, and not empty")
    ref, alt = row["ref"].strip().upper(), row["alt"].strip()
    name = str(row.get("name") or MISSING)
    check_texts(place, contig=contig, ref=ref, alt=alt, name=name)
    return Allele(
        place, contig, int(position) - 1, ref, alt.upper() if alt.isalpha() else alt, name
    )


def check_texts(place: str, **texts: str) -> None:
    """Raises an `InputError` for a text that would break a line or a column of what is written."""
    if _CONTROL.search("".join(texts.values())):
        field, value = next(item for item in texts.items() if _CONTROL.search(item[1]))
        rule = "must have no tab, line break or other control character"
        raise InputError(f"{place}: {field} {value!r}: {rule}")


def _open_bcf(path: Path) -> VcfText:
    if not path.is_file():
        raise MissingInputError(f"{path}: no such file")
    pysam = import_extra("pysam", EXTRA, f"{path}: to read BCF")
    with _reading(path, pysam):
        file = pysam.VariantFile(str(path))
        header = str(file.header).rstrip("\n").split("\n")

    def read() -> Iterator[tuple[int, str]]:
        with _reading(path, pysam):
            for number, record in enumerate(file, start=len(header) + 1):
                yield number, str(record).rstrip("\n")

    return VcfText(header, read())


@contextlib.contextmanager
def _reading(path: Path, pysam: Any) -> Iterator[None]:
    """Turns what htslib says into one line."""
    try:
        with silence(pysam):
            yield
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no BCF that can be read: {error}") from None


def _find_columns(path: Path, there: Sequence[str]) -> dict[str, str]:
    """What we call a column -> what the table calls it."""
    found: dict[str, str] = {}
    by_name = {name.strip().lstrip("#").lower(): name for name in reversed(there)}
    for column, names in COLUMNS.items():
        present = [by_name[name] for name in names if name in by_name]
        if present:
            found[column] = present[0]
        elif column != "name":
            shown = ", ".join(there[:8]) or "none"
            raise InputError(f"{path}: no column {' or '.join(names)}; has {shown}")
    return found


def _read_table(path: Path, kind: Kind) -> Iterator[Allele]:
    """The alleles of a table, one a row."""
    columns: dict[str, str] = {}

    def select(there: list[str]) -> list[str]:
        columns.update(_find_columns(path, there))
        return list(columns.values())

    place = ""
    for place, row in read_rows(path, kind, select, comment="##", extra=EXTRA):
        yield _make_allele(place, {column: row[name] for column, name in columns.items()})
    if not place:
        raise InputError(f"{path}: no row: must hold at least one variant")
