"""What a corpus holds, in a table and in notes: `nt corpus info`."""

from collections.abc import Sequence
from typing import NamedTuple

from nucleotide_transformer.data.chunking import SPLITS, cut_chunks
from nucleotide_transformer.data.manifest import Genome, Manifest, count_records, load_contigs
from nucleotide_transformer.data.quality import count_tokens, find_n50

UNKNOWN = "?"
"""In place of a number that corpora of earlier versions do not have."""
_MOST_PADDING = 0.1
_MOST_N = 0.1


class _Letters(NamedTuple):
    """What the records of a genome hold, or of several."""

    num_letters: int
    num_places: int
    """Letters that as many full records have."""
    num_unknown: int | None

    @property
    def fill(self) -> float:
        """Share of the records that is sequence; the rest becomes padding."""
        return self.num_letters / self.num_places if self.num_places else 0.0

    @property
    def unknown_tokens(self) -> float | None:
        """Share of the tokens that are N."""
        if self.num_unknown is None:
            return None
        return self.num_unknown / max(count_tokens(self.num_letters, self.num_unknown), 1)


def describe(manifest: Manifest) -> list[dict[str, str | int]]:
    """A table of the corpus: one row for each genome, and a last one with the sums.

    Columns: species, assembly, group, contigs, nucleotides, unknown (N), then N50 (half of the
    nucleotides are in contigs of this length or a greater one), the records of each split, left out
    (chunks that are short or mostly N), fill (share of the records that is sequence; the rest
    becomes padding) and N tokens (share of the tokens of the records that are N, at six letters to
    a token).
    """
    letters = [_count_letters(manifest, genome) for genome in manifest.genomes]
    rows = [
        _describe_genome(manifest, genome, inner)
        for genome, inner in zip(manifest.genomes, letters, strict=True)
    ]
    total: dict[str, str | int] = {"species": "total", "assembly": "", "group": ""}
    shares = _show_shares(_add(letters))
    for column, value in rows[0].items():
        if column == "N50":
            total[column] = ""
        elif column in shares:
            total[column] = shares[column]
        elif isinstance(value, int):
            total[column] = sum(int(row[column]) for row in rows)
    return [*rows, total]


def list_notes(manifest: Manifest) -> list[str]:
    """What a user should know before training on a corpus, a line for each."""
    notes = [
        f"the {split} split has no record" for split in SPLITS if not manifest.num_records(split)
    ]
    letters = _add([_count_letters(manifest, genome) for genome in manifest.genomes])
    if letters.num_places and letters.fill < 1 - _MOST_PADDING:
        rule = "its contigs are shorter than a record"
        if not manifest.is_packed:
            rule += ": `--short-contigs pack` joins them in another corpus"
        notes.append(f"{1 - letters.fill:.0%} of a sequence would be padding: {rule}")
    share = letters.unknown_tokens
    if share is not None and share > _MOST_N:
        rule = "a lower `--max-unknown-tokens` leaves more of them out, in another corpus"
        notes.append(f"{share:.0%} of the tokens are N: {rule}")
    return notes


def _describe_genome(manifest: Manifest, genome: Genome, letters: _Letters) -> dict[str, str | int]:
    n50 = genome.n50
    if n50 is None:
        n50 = find_n50([contig.length for contig in load_contigs(manifest.folder, genome.name)])
    row: dict[str, str | int] = {
        "species": genome.species,
        "assembly": genome.assembly,
        "group": genome.group,
        "contigs": genome.num_contigs,
        "nucleotides": genome.num_nucleotides,
        "unknown": genome.num_unknown,
        "N50": n50,
    }
    records = count_records(genome)
    row |= {split: records.get(split, 0) for split in SPLITS}
    row["left out"] = sum(shard.num_left_out_records for shard in genome.shards)
    return row | _show_shares(letters)


def _show_shares(letters: _Letters) -> dict[str, str]:
    share = letters.unknown_tokens
    return {
        "fill": f"{letters.fill:.0%}",
        "N tokens": UNKNOWN if share is None else f"{share:.1%}",
    }


def _count_letters(manifest: Manifest, genome: Genome) -> _Letters:
    """Of all records of a genome; corpora of earlier versions tell it by where they are cut."""
    num_records = sum(shard.num_records for shard in genome.shards)
    lengths = [shard.num_letters for shard in genome.shards]
    unknown = [shard.num_unknown for shard in genome.shards]
    known = [length for length in lengths if length is not None]
    num_letters = sum(known) if len(known) == len(lengths) else _add_up(manifest, genome)
    num_unknown = None if None in unknown else sum(number or 0 for number in unknown)
    return _Letters(num_letters, num_records * manifest.record_length, num_unknown)


def _add_up(manifest: Manifest, genome: Genome) -> int:
    """Letters of all records, from where the contigs are cut."""
    total = 0
    for contig in load_contigs(manifest.folder, genome.name):
        for (start, end, _), left_out in zip(contig.segments, contig.left_out, strict=True):
            chunks = cut_chunks(start, end, manifest.chunk_length, manifest.overlap)
            total += sum(last - first for first, last in chunks)
            total -= sum(chunks[number][1] - chunks[number][0] for number in left_out)
    return total


def _add(letters: Sequence[_Letters]) -> _Letters:
    unknown = [each.num_unknown for each in letters]
    return _Letters(
        sum(each.num_letters for each in letters),
        sum(each.num_places for each in letters),
        None if None in unknown else sum(number or 0 for number in unknown),
    )
