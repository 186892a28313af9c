"""Scores into files: VCF and TSV, with bgzip and a tabix index, and Parquet.

VCF: the records as they were, and for each score an INFO field `NT_<score>` with one value per
alternative allele, "." where there is none; `NT_skip` then has the reason. `bcftools query`, or
`vep --custom file=x.vcf.gz,format=vcf,fields=NT_llr`, read them.

TSV: a row for each alternative allele, contig, start (from 0), end and label in the first four
columns, as in BED: `vep --custom file=x.tsv.gz,format=bed,type=exact` shows the label, which is the
change with its first score, "G>A:-1.25". Then position (from 1), ref, alt, name, the scores, skip.

A file with an index must be sorted: where the input is not, the records are, by contig in the order
of a VCF's header (or of first appearance) and position; records of one place keep their order.
"""

import contextlib
import functools
import heapq
import itertools
import json
import re
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nucleotide_transformer.errors import InputError, import_extra, require
from nucleotide_transformer.files import write_whole
from nucleotide_transformer.variants.reading import (
    MISSING,
    VCF_COLUMNS,
    Allele,
    find_kind,
    open_vcf,
    read_variants,
    split_record,
)
from nucleotide_transformer.variants.reference import EXTRA, silence
from nucleotide_transformer.variants.scores import SCORES

SUFFIXES = (".vcf.gz", ".vcf", ".tsv.gz", ".tsv", ".parquet")
FIELD = "NT_"
"""Start of the names of INFO fields."""
SKIP = "skip"
"""Column, and INFO field, of reasons."""
_NOT_IN_VCF = {
    "contig": re.compile(r"[\s,<>]"),
    "ref": re.compile(r"[\s,;]"),
    "alt": re.compile(r"[\s,;]"),
}
"""What ends a field of a VCF; names are mended."""
_LINES_AT_ONCE = 200_000
_ROWS_AT_ONCE = 65_536
_CHANGED = "has changed since its variants were counted"

Result = tuple[list[float | None], str]
"""The scores of an allele, and the reason where one is missing."""


class Table(NamedTuple):
    """What is written."""

    source: Path
    """The variants."""
    scores: tuple[str, ...]
    contigs: dict[str, int]
    """Contigs of the variants, as these call them, and their lengths (0 if not known)."""
    is_sorted: bool
    settings: dict[str, Any]
    """What the scores depend on."""


class _Line(NamedTuple):
    """A line of a file that may have to be sorted."""

    contig: str
    start: int
    text: str


def check_output(path: Path) -> str:
    """The suffix of an output; an `InputError` for one that can't be written."""
    found = [suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)]
    require(bool(found), "output", str(path), f"must be a file {', '.join(SUFFIXES)}")
    if found[0] in (".vcf.gz", ".tsv.gz"):
        import_extra("pysam", EXTRA, f"{path}: to write bgzip")
    if found[0] == ".parquet":
        import_extra("pyarrow", EXTRA, f"{path}: to write Parquet")
    return found[0]


def find_row_check(path: Path, source: Path) -> Callable[[Allele], None]:
    """A function that raises an `InputError` for a variant that an output can't have.

    Those of a VCF can be in one, as they were.
    """
    is_copied = find_kind(source) in ("vcf", "bcf")
    if is_copied or not check_output(path).startswith(".vcf"):
        return lambda _: None
    return functools.partial(_check_row, path)


def _check_row(path: Path, allele: Allele) -> None:
    """Raises an `InputError` for a row of a table that is no record of a VCF."""
    for field, pattern in _NOT_IN_VCF.items():
        value = getattr(allele, field)
        if pattern.search(value):
            rule = f"{path.name} can't have it: a VCF has no space, comma or semicolon there"
            raise InputError(f"{allele.place}: {field} {value!r}: {rule}")


def write_scores(path: Path, table: Table, results: Iterable[Result]) -> list[Path]:
    """Writes a file whole or not at all, and its index; returns their paths.

    Args:
        path: one of `SUFFIXES`.
        table: the variants, and what there is to say of them.
        results: for every allele of `table.source`, in its order.
    """
    suffix = check_output(path)
    if suffix == ".parquet":
        with write_whole(path) as partial:
            _write_parquet(partial, table, results)
        return [path]
    is_vcf = suffix.startswith(".vcf")
    header, lines = (_make_vcf if is_vcf else _make_tsv)(table, iter(results))
    is_indexed = suffix.endswith(".gz")
    if is_indexed and not table.is_sorted:
        ranks = {contig: rank for rank, contig in enumerate(_list_contigs(table))}
        lines = _sort(lines, ranks)
    if not is_indexed:
        with write_whole(path) as partial, partial.open("w", encoding="utf-8") as file:
            file.writelines(_join(header, lines))
        return [path]
    return _write_indexed(path, "vcf" if is_vcf else "bed", _join(header, lines))


def _join(header: list[str], lines: Iterable[_Line]) -> Iterator[str]:
    return itertools.chain((line + "\n" for line in header), (line.text + "\n" for line in lines))


def _write_indexed(path: Path, preset: str, lines: Iterable[str]) -> list[Path]:
    """Writes bgzip and its index: tabix, or csi where a place is too far out for that."""
    pysam = import_extra("pysam", EXTRA, f"{path}: to write bgzip")

    def write_index(suffix: str) -> Path:
        index = path.with_name(path.name + suffix)
        with silence(pysam), write_whole(index) as place:
            options = {"preset": preset, "index": str(place), "csi": suffix == ".csi"}
            pysam.tabix_index(str(partial), force=True, **options)
        return index

    with write_whole(path) as partial:
        with pysam.BGZFile(str(partial), "wb") as file:
            for line in lines:
                file.write(line.encode())
        try:
            return [path, write_index(".tbi")]
        except OSError:  # 2**29 is the end, for an END among the INFO too
            return [path, write_index(".csi")]


def _describe(table: Table) -> list[str]:
    """Lines of a header that say what the scores are."""
    return [f"##nucleotide_transformer={json.dumps(table.settings)}"]


def _make_vcf(table: Table, results: Iterator[Result]) -> tuple[list[str], Iterator[_Line]]:
    """Header and records of a VCF."""
    fields = [
        f'##INFO=<ID={FIELD}{name},Number=A,Type=Float,Description="{SCORES[name].formula}">'
        for name in table.scores
    ]
    why = "why an allele lacks a score"
    fields.append(f'##INFO=<ID={FIELD}{SKIP},Number=A,Type=String,Description="{why}">')
    if find_kind(table.source) not in ("vcf", "bcf"):
        lengths = [f"##contig=<ID={name},length={n}>" for name, n in table.contigs.items() if n]
        header = ["##fileformat=VCFv4.2", *lengths, *_describe(table), *fields, VCF_COLUMNS]
        return header, _make_records(table, results)
    vcf = open_vcf(table.source)
    *meta, columns = vcf.header
    ours = (*(f"##INFO=<ID={name}," for name in _list_fields()), "##nucleotide_transformer=")
    meta = [line for line in meta if not line.startswith(ours)]
    named = {_get_contig(line) for line in meta}
    lengths = [
        f"##contig=<ID={name},length={length}>"
        for name, length in table.contigs.items()
        if length and name not in named
    ]
    return [*meta, *lengths, *_describe(table), *fields, columns], _annotate(vcf, table, results)


def _get_contig(line: str) -> str | None:
    """The contig that a line of a header describes."""
    if not line.startswith("##contig=<"):
        return None
    parts = line.removeprefix("##contig=<").rstrip(">").split(",")
    return next((part.removeprefix("ID=") for part in parts if part.startswith("ID=")), None)


def _list_contigs(table: Table) -> list[str]:
    """Contigs in the order of a sorted file: those that the header of a VCF names first."""
    header = open_vcf(table.source).header if find_kind(table.source) in ("vcf", "bcf") else []
    named = [name for name in map(_get_contig, header) if name]
    return list(dict.fromkeys([*named, *table.contigs]))


def _annotate(vcf: Any, table: Table, results: Iterator[Result]) -> Iterator[_Line]:
    """The records of a VCF with their INFO fields."""
    for number, line in vcf.records:
        alleles = split_record(table.source, number, line)
        of_alleles = list(itertools.islice(results, len(alleles)))
        if len(of_alleles) != len(alleles):
            raise InputError(f"{table.source}: line {number}: {_CHANGED}")
        columns = line.split("\t")
        has_none = columns[4] == MISSING
        columns[7] = _join_info(columns[7], [] if has_none else _make_info(table, of_alleles))
        yield _Line(columns[0], alleles[0].start, "\t".join(columns))
    if next(results, None):
        raise InputError(f"{table.source}: {_CHANGED}")


def _make_records(table: Table, results: Iterator[Result]) -> Iterator[_Line]:
    """Records of a VCF for the rows of a table."""
    for allele, result in zip(read_variants(table.source), results, strict=True):
        info = _join_info(MISSING, _make_info(table, [result]))
        name = allele.name.replace(";", ",").replace(" ", "_") or MISSING
        place = (allele.contig, str(allele.start + 1), name, allele.ref, allele.alt)
        text = "\t".join([*place, MISSING, MISSING, info])
        yield _Line(allele.contig, allele.start, text)


def _make_info(table: Table, results: list[Result]) -> list[str]:
    """INFO fields: one value for each allele of a record."""
    columns = zip(*(values for values, _ in results), strict=True)
    info = [
        f"{FIELD}{name}={','.join(map(_show, values))}"
        for name, values in zip(table.scores, columns, strict=True)
    ]
    reasons = [reason or MISSING for _, reason in results]
    return [*info, f"{FIELD}{SKIP}={','.join(reasons)}"] if any(r for _, r in results) else info


def _join_info(text: str, ours: list[str]) -> str:
    """INFO fields of a record, without those that we wrote before, and ours."""
    others = [field for field in text.split(";") if field != MISSING]
    kept = [field for field in others if field.partition("=")[0] not in _list_fields()]
    return ";".join([*kept, *ours]) or MISSING


@functools.cache
def _list_fields() -> frozenset[str]:
    """All INFO fields that may be ours."""
    return frozenset(f"{FIELD}{name}" for name in (*SCORES, SKIP))


def _show(value: float | None) -> str:
    """With nine digits: of a cosine near 1 the first four or five may be nines."""
    return MISSING if value is None else f"{value:.9g}"


def _make_tsv(table: Table, results: Iterator[Result]) -> tuple[list[str], Iterator[_Line]]:
    """Header and rows of a TSV."""
    columns = ("contig", "start", "end", "label", "position", "ref", "alt", "name")
    header = [*_describe(table), "#" + "\t".join([*columns, *table.scores, SKIP])]

    def make() -> Iterator[_Line]:
        pairs = zip(read_variants(table.source), results, strict=True)
        for allele, (values, reason) in pairs:
            start, shown = allele.start, [_show(value) for value in values]
            place = (allele.contig, max(start, 0), start + len(allele.ref))
            label = f"{allele.ref}>{allele.alt}:{shown[0]}"
            rest = (start + 1, allele.ref, allele.alt, allele.name)
            row = (*place, label, *rest, *shown, reason or MISSING)
            yield _Line(allele.contig, start, "\t".join(map(str, row)))

    return header, make()


def _sort(lines: Iterator[_Line], ranks: dict[str, int]) -> Iterator[_Line]:
    """Lines by contig and place, through temporary files: any number of them."""

    def key(line: _Line) -> tuple[int, int]:
        return ranks[line.contig], line.start

    def read(path: Path) -> Generator[_Line]:
        with path.open(encoding="utf-8") as file:
            for row in file:
                contig, start, text = row.rstrip("\n").split("\t", 2)
                yield _Line(contig, int(start), text)

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        paths: list[Path] = []
        while some := list(itertools.islice(lines, _LINES_AT_ONCE)):
            some.sort(key=key)
            paths.append(Path(folder) / str(len(paths)))
            rows = ("\t".join(map(str, line)) + "\n" for line in some)
            with paths[-1].open("w", encoding="utf-8") as file:
                file.writelines(rows)
        readers = [read(path) for path in paths]
        for reader in readers:
            stack.callback(reader.close)
        yield from heapq.merge(*readers, key=key)


def _write_parquet(path: Path, table: Table, results: Iterable[Result]) -> None:
    """A row for each allele, in the order of the input."""
    arrow = import_extra("pyarrow", EXTRA, f"{path}: to write Parquet")
    parquet = import_extra("pyarrow.parquet", EXTRA, f"{path}: to write Parquet")
    text = dict.fromkeys(("contig", "ref", "alt", "name", SKIP), arrow.string())
    kinds = {"contig": text["contig"], "position": arrow.int64(), "ref": text["ref"]}
    kinds |= {"alt": text["alt"], "name": text["name"]}
    kinds |= dict.fromkeys(table.scores, arrow.float32()) | {SKIP: text[SKIP]}
    metadata = {"nucleotide_transformer": json.dumps(table.settings)}
    schema = arrow.schema(list(kinds.items()), metadata=metadata)
    pairs = zip(read_variants(table.source), results, strict=True)
    with parquet.ParquetWriter(path, schema) as writer:
        while rows := list(itertools.islice(pairs, _ROWS_AT_ONCE)):
            columns = zip(*(_make_row(*row) for row in rows), strict=True)
            arrays = [
                arrow.array(list(column), kind)
                for column, kind in zip(columns, kinds.values(), strict=True)
            ]
            writer.write_table(arrow.table(arrays, schema=schema))


def _make_row(allele: Allele, result: Result) -> tuple[Any, ...]:
    """The columns of a Parquet file."""
    values, reason = result
    place = (allele.contig, allele.start + 1, allele.ref, allele.alt, allele.name)
    return (*place, *values, reason or None)
