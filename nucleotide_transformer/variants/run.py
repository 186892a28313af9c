"""Scores the variants of a file into a file; a run that was stopped resumes at its last block."""

import collections
import contextlib
import hashlib
import itertools
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nucleotide_transformer.bars import make_bar
from nucleotide_transformer.errors import InputError, MissingInputError
from nucleotide_transformer.files import check_new, write_whole
from nucleotide_transformer.inference.blocks import INPUT
from nucleotide_transformer.model.platform import find_default_device
from nucleotide_transformer.pretrained import Model
from nucleotide_transformer.variants.blocks import ScoredBlocks
from nucleotide_transformer.variants.calibration import find_calibration, make_run_settings
from nucleotide_transformer.variants.changes import REASONS, check_allele
from nucleotide_transformer.variants.config import STDIN, ScoreVariantsConfig
from nucleotide_transformer.variants.reading import Allele, find_kind_of_bytes, read_variants
from nucleotide_transformer.variants.reference import Reference, open_reference
from nucleotide_transformer.variants.scoring import Scorer
from nucleotide_transformer.variants.writing import (
    Table,
    check_output,
    find_row_check,
    write_scores,
)

BLOCK_ON_CPU, BLOCK_ELSEWHERE = 256, 2_048
"""Variants of a block: those that share passes, and what a stop can cost."""
ALWAYS_SKIPPED = ("no_alt", "star", "breakend", "symbolic", "not_acgt", "same", "unknown")
"""Reasons that are no mistake, as `check_allele` gives them."""


class Variants(NamedTuple):
    """The variants of a file, all of which were read and checked."""

    source: Path
    """The file, or the copy of standard input."""
    reference: Reference
    num_alleles: int
    contigs: dict[str, int]
    """By the names of the file, in its order; lengths, 0 where the FASTA has no such contig."""
    is_sorted: bool
    digest: str
    """Hexadecimal, of all alleles."""
    notes: tuple[str, ...]
    blocks: ScoredBlocks | None = None
    """Of the copy of standard input: their folder, held until they are scored. It is a context, for
    what may fail before."""


class Summary(NamedTuple):
    """What a run did."""

    paths: list[Path]
    """The output, and its index."""
    num_scored: int
    """Alleles with all scores that were asked for."""
    skipped: dict[str, int]
    """Alleles that lack one or all, by reason."""

    def describe(self) -> list[str]:
        """Lines that say so."""
        lines = [f"{self.num_scored:,} scored"]
        if self.skipped:
            lines[0] += f", {sum(self.skipped.values()):,} without a score or with some alone"
        counts = sorted(self.skipped.items(), key=lambda item: -item[1])
        return [*lines, *(f"{count:9,}  {reason}: {REASONS[reason]}" for reason, count in counts)]


def check_variants(config: ScoreVariantsConfig) -> Variants:
    """Reads and checks all variants against the reference; no model is needed.

    Raises:
        OutputExistsError, NotAFolderError, UnwritableOutputError: for an output that is there, or
            can't be.
        MissingInputError, InputError: in one line, for what is wrong with the input; with
            `on_mismatch` = "error" also for an allele that does not fit the reference, and always
            if no contig of the variants is in the FASTA; of standard input, if another process
            writes the same output.
    """
    check_output(config.output)
    check_new(config.output)
    reference = open_reference(config.fasta)
    if config.vcf != STDIN:
        return _check_alleles(config.vcf, reference, config)
    with contextlib.ExitStack() as stack:
        blocks = stack.enter_context(ScoredBlocks(config.output))
        source = _copy_stdin(blocks.folder)
        try:
            variants = _check_alleles(source, reference, config)
        except InputError as error:  # which names the copy, and that will be gone
            raise InputError(str(error).replace(str(source), "standard input")) from None
        stack.pop_all()
    return variants._replace(blocks=blocks)


def score_variants(
    model: Model,
    config: ScoreVariantsConfig,
    *,
    variants: Variants | None = None,
    progress: bool = False,
) -> Summary:
    """Scores all variants of a file; `writing.py` describes the result, `scores.py` the scores.

    Finished blocks are kept in the folder `<output>.parts`; called again with the same arguments,
    the function resumes after them. The output appears when it is complete, and the folder is
    removed.

    Args:
        model: what `load_pretrained(config.model, ...)` returns.
        config: files and options.
        variants: what `check_variants` returned, if it was called before the model was loaded.
        progress: show a bar with rate and time left.

    Raises:
        InputError: as `check_variants`, for a window, layer or table that does not fit the model,
            or if the folder of parts is that of a run with other arguments, or another genome
            around the variants that are done, or another process writes there.
    """
    variants = check_variants(config) if variants is None else variants
    with variants.blocks or ScoredBlocks(config.output) as blocks:
        calibration = find_calibration(config, model)
        scorer = Scorer(
            model, variants.reference, config.scores, around=config, calibration=calibration
        )
        settings = make_run_settings(model, config, variants.reference)
        settings |= {"scores": list(config.scores)}
        settings |= {"num_variants": variants.num_alleles, "variants": variants.digest}
        if calibration:
            settings["calibration"] = calibration.digest
        blocks.keep_settings(settings)
        _run_blocks(scorer, blocks, variants, config.output, progress)
        source, contigs, is_sorted = variants.source, variants.contigs, variants.is_sorted
        table = Table(source, config.scores, contigs, is_sorted, settings)
        paths = write_scores(config.output, table, blocks.read())
        reasons = collections.Counter(reason for _, reason in blocks.read())
    num_scored = reasons.pop("", 0)
    return Summary(paths, num_scored, dict(reasons))


def _run_blocks(
    scorer: Scorer, blocks: ScoredBlocks, variants: Variants, output: Path, progress: bool
) -> None:
    """Computes the blocks that are not there yet, and checks the letters around the others.

    Raises:
        InputError: for other letters, or if there are more or fewer variants than were counted.
    """

    def digest(block: list[Allele]) -> str:
        return scorer.digest_letters(scorer.find_changes(block))

    alleles = read_variants(variants.source)
    done = blocks.skip(alleles, digest)
    with make_bar("variants", is_shown=progress) as bar:
        what = f"{variants.num_alleles:,} variants to {output.name}"
        task = bar.add_task(what, total=variants.num_alleles, completed=done)
        size = BLOCK_ON_CPU if find_default_device().platform == "cpu" else BLOCK_ELSEWHERE
        while block := list(itertools.islice(alleles, size)):
            blocks.add_scored(scorer.score(block), digest(block))
            bar.advance(task, len(block))
            done += len(block)
    if done != variants.num_alleles:
        what = f"{done:,} variants, not {variants.num_alleles:,} as when they were counted"
        raise InputError(f"{variants.source}: {what}: it has changed")


def _copy_stdin(folder: Path) -> Path:
    """Copies standard input into a folder: it is read more than once."""
    if sys.stdin is None:
        raise MissingInputError("standard input: is closed: name a file, or pipe the variants in")
    stream = sys.stdin.buffer
    start = stream.read(1 << 16)
    path = folder / f"{INPUT}{find_kind_of_bytes(start)}"
    with write_whole(path) as partial, partial.open("wb") as file:
        file.write(start)
        shutil.copyfileobj(stream, file)
    return path


def _check_alleles(source: Path, reference: Reference, config: ScoreVariantsConfig) -> Variants:
    """Reads all alleles of a file, that of the config or a copy; see `check_variants`."""
    must_fit = config.on_mismatch == "error"
    check_row = find_row_check(config.output, source)
    digest = hashlib.blake2b(digest_size=16)
    contigs: dict[str, int] = {}
    count, is_sorted, last = 0, True, ("", 0)
    wrong: str | None = None
    for allele in read_variants(source):
        count += 1
        check_row(allele)
        digest.update(repr(allele[1:]).encode())
        contig, reason = check_allele(allele, reference)
        if wrong is None and reason and reason not in ALWAYS_SKIPPED:
            wrong = _describe_misfit(allele, contig, reason, reference)
        if must_fit and wrong and contig:
            raise InputError(wrong)
        if allele.contig != last[0]:
            is_sorted &= allele.contig not in contigs
        elif allele.start < last[1]:
            is_sorted = False
        last = (allele.contig, allele.start)
        contigs.setdefault(allele.contig, reference.lengths.get(contig, 0))
    if count and not any(contigs.values()):
        names = [", ".join(itertools.islice(names, 5)) for names in (contigs, reference.lengths)]
        raise InputError(f"{source}: contigs {names[0]}: {reference.path} has {names[1]}")
    if must_fit and wrong:
        raise InputError(wrong)
    notes = (*reference.notes, *_describe_names(contigs, reference))
    return Variants(source, reference, count, contigs, is_sorted, digest.hexdigest(), notes)


def _describe_misfit(allele: Allele, contig: str, reason: str, reference: Reference) -> str:
    """One line for an allele that does not fit the reference."""
    place = f"{allele.place}: {allele.contig}:{allele.start + 1}"
    remedy = "give the genome of the variants, or --on-mismatch skip"
    if reason == "no_contig":
        return f"{place}: {reference.path} has no such contig: {remedy}"
    if reason == "off_contig":
        end = f"ends at {reference.lengths[contig]:,}" if allele.start >= 0 else "begins at 1"
        return f"{place}: {contig} of {reference.path} {end}: {remedy}"
    start = allele.start
    found = reference.fetch(contig, start, min(start + len(allele.ref), start + 20)).decode()
    shown = f"REF {allele.ref[:20]}"
    return f"{place}: {shown}, but {reference.path} has {found}: {remedy}"


def _describe_names(contigs: dict[str, int], reference: Reference) -> Iterator[str]:
    """Says which contigs have another name in the FASTA."""
    matches = ((name, reference.match(name)) for name in contigs)
    pairs = [f"{name} = {match}" for name, match in matches if match and match != name]
    if pairs:
        more = f" and {len(pairs) - 3} more" if len(pairs) > 3 else ""
        yield f"contigs are named differently in {reference.path}: {', '.join(pairs[:3])}{more}"
