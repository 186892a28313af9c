"""FASTA files: read as pysam reads them if sound, and refused with a place otherwise."""

import gzip
import hashlib
import re
from pathlib import Path

import pysam
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from one_line_errors import assert_one_line

from nucleotide_transformer.data import fasta
from nucleotide_transformer.data.fasta import FastaReader

GENOMES = Path(__file__).parent.parent / "nucleotide_transformer" / "data" / "genomes"

LETTERS = "ACGTUNRYSWKMBDHVacgtunryswkmbdhv"
"""All that a FASTA file may hold; the last 11 of each case become N, U becomes T."""


def read(path: Path) -> list[tuple[str, bytes]]:
    return [(contig.name, bytes(contig.sequence)) for contig in FastaReader(path)]


def read_text(folder: Path, text: bytes) -> list[tuple[str, bytes]]:
    path = folder / "genome.fa"
    path.write_bytes(text)
    return read(path)


def normalise(sequence: str) -> bytes:
    """Letter by letter, as the rule is written."""
    upper = sequence.upper().replace("U", "T")
    return "".join(letter if letter in "ACGT" else "N" for letter in upper).encode()


@pytest.mark.parametrize("name", ["hpylori_g27.fa.gz", "umaydis_chr01-06.fa.gz"])
def test_real_genome_equals_pysam(name: str) -> None:
    with pysam.FastxFile(str(GENOMES / name)) as file:
        expected = [(entry.name, normalise(entry.sequence or "")) for entry in file]
    assert read(GENOMES / name) == expected


def test_plain_gzip_and_bgzip_are_one(tmp_path: Path) -> None:
    plain, bgzip, zipped = (tmp_path / name for name in ("a.fa", "a.bgz", "a.gz"))
    plain.write_bytes(b">one first\nACGT\nac\n>two\n" + b"GATTACA" * 30_000 + b"\n")
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    pysam.tabix_compress(str(plain), str(bgzip))
    assert read(plain) == [("one", b"ACGTAC"), ("two", b"GATTACA" * 30_000)]
    assert read(plain) == read(bgzip) == read(zipped)


def test_gzip_of_several_members(tmp_path: Path) -> None:
    members = gzip.compress(b">one\nAC") + gzip.compress(b"GT\n>two\nA")
    assert read_text(tmp_path, members) == [("one", b"ACGT"), ("two", b"A")]


def test_digest_and_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.fa.gz"
    path.write_bytes(gzip.compress(b"\n>one\nAC\n\nGT\n>two\nA"))
    reader = FastaReader(path)
    assert [contig.line for contig in reader] == [2, 6]
    assert reader.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert reader.num_bytes == path.stat().st_size


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    sequences=st.lists(st.text(LETTERS, min_size=1, max_size=40), min_size=1, max_size=5),
    width=st.integers(1, 20),
    newline=st.sampled_from(["\n", "\r\n"]),
    last_newline=st.booleans(),
    block_bytes=st.integers(1, 50),
)
def test_any_layout_in_any_blocks(
    sequences: list[str],
    width: int,
    newline: str,
    last_newline: bool,
    block_bytes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fasta, "BLOCK_BYTES", block_bytes)
    lines = []
    for number, sequence in enumerate(sequences):
        lines.append(f">contig{number} a > b")
        lines += [sequence[i : i + width] for i in range(0, len(sequence), width)]
    text = newline.join(lines) + newline * last_newline
    expected = [(f"contig{n}", normalise(sequence)) for n, sequence in enumerate(sequences)]
    assert read_text(tmp_path, text.encode()) == expected


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        read(tmp_path / "none.fa")
    assert_one_line(error, tmp_path / "none.fa", "no such FASTA file")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (b"", ["empty: a FASTA file must"]),
        (gzip.compress(b"", mtime=0), ["no contig"]),
        (b"\n\n", ["no contig"]),
        (b"ACGT\n>one\nACGT\n", ["line 1", "b'ACGT'", "start with '>'"]),
        (b"\n >one\nACGT\n", ["line 2", "b' >one'", "start with '>'"]),
        (b"\n@read\nACGT\n+\nIIII\n", ["line 2", "b'@read'", "FASTQ"]),
        (bytes(range(256)) * 9, ["line 1", "looks binary"]),
        (gzip.compress(b"BAM\1" + bytes(99), mtime=0), ["line 1", "b'BAM", "looks binary"]),
        (b">\xff\xfe\x00\nACGT", ["line 1", "must be UTF-8 text"]),
        (b">one\nAC\n>\nACGT\n", ["line 3", "without a name"]),
        (b">one\nAC\n> two\nACGT\n", ["line 3", "without a name"]),
        (b">one\nAC\n>", ["line 3", "without a name"]),
        (b">one\nA\n>two\nC\n>one\nG\n", ["line 5", "'one'", "line 1"]),
        (b">one\nAC\n>two\n>three\nG\n", ["line 3", "'two'", "empty"]),
        (b">one\nAC\n>two\n", ["line 3", "'two'", "empty"]),
        (b">one\nACGT\nMKTL\n", ["contig 'one'", "position 8", "'L'", "must be A, C, G, T"]),
        (b">one\nACGT\nAC GT\n", ["contig 'one'", "position 7", "' '"]),
        (b">one\nACGT\nA>GT\n", ["contig 'one'", "position 6", "'>'"]),
        (b">one\nACGT\nAC\xe9T\n", ["contig 'one'", "position 7", "'é'"]),
        (b">one\nACGT\nAC-T\n", ["contig 'one'", "position 7", "'-'"]),
    ],
)
def test_bad_text(text: bytes, parts: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "genome.fa"))) as error:
        read_text(tmp_path, text)
    assert_one_line(error, *parts)


def test_every_other_character_is_refused(tmp_path: Path) -> None:
    for character in map(chr, range(256)):
        text = b">one\n" + b"ACGTN\n" * 3 + f"AC{character}".encode("latin-1")
        if character in f"{LETTERS}\r\n":
            assert len(read_text(tmp_path, text)[0][1]) == 17 + (character in LETTERS)
            continue
        with pytest.raises(ValueError, match="position 18") as error:
            read_text(tmp_path, text)
        assert_one_line(error, repr(character), "contig 'one'")


def test_truncated_gzip_at_any_byte(tmp_path: Path) -> None:
    whole = gzip.compress(b">one\n" + b"GATTACATTAGACAT\n" * 40)
    for size in range(1, len(whole)):
        with pytest.raises(ValueError, match=re.escape(str(tmp_path / "genome.fa"))) as error:
            read_text(tmp_path, whole[:size])
        assert_one_line(error, "line 1" if size < 2 else "truncated gzip")


def test_damaged_gzip(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(b">one\n" + b"GATTACATTAGACAT\n" * 40))
    whole[-6] ^= 1  # in the checksum
    with pytest.raises(ValueError, match="damaged gzip") as error:
        read_text(tmp_path, bytes(whole))
    assert_one_line(error, tmp_path / "genome.fa", "CRC")


def test_bgzip_cut_between_blocks(tmp_path: Path) -> None:
    plain, bgzip = tmp_path / "a.fa", tmp_path / "a.fa.gz"
    plain.write_bytes(b">one\n" + b"GATTACA" * 30_000)
    pysam.tabix_compress(str(plain), str(bgzip))
    whole = bgzip.read_bytes()
    first_block = int.from_bytes(whole[16:18], "little") + 1
    for size in (first_block, len(whole) - 28):
        bgzip.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="truncated bgzip") as error:
            read(bgzip)
        assert_one_line(error, bgzip)


@pytest.mark.parametrize("decompressor", ["gzip", "isal"])
def test_both_decompressors_check_what_they_read(
    decompressor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members, digest, damage and an end too early, with and without the extra `fast`."""
    if decompressor == "gzip":
        monkeypatch.setattr(fasta, "igzip", None)
    else:
        pytest.importorskip("isal")
        monkeypatch.setattr(fasta.gzip, "GzipFile", None)
    one, two = b">one\n" + b"GATTACA\n" * 20_000, b">two\nACGT\n"
    whole = gzip.compress(one) + gzip.compress(two)
    expected = [("one", b"GATTACA" * 20_000), ("two", b"ACGT")]
    assert read_text(tmp_path, whole) == expected
    reader = FastaReader(tmp_path / "genome.fa")
    assert len(list(reader)) == 2
    assert (reader.num_bytes, reader.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())
    for changed, message in (
        (whole[:-9], "truncated gzip"),
        (whole[:60], "truncated gzip"),
        (whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:], "damaged gzip"),
        (whole[:40] + bytes([whole[40] ^ 255]) + whole[41:], "gzip"),
        (whole + b"rubbish", "gzip"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            read_text(tmp_path, changed)
        assert_one_line(error, tmp_path / "genome.fa")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"BZh91AY&SY", "is bzip2: must be FASTA as plain UTF-8 text, gzip or bgzip"),
        (b"\x28\xb5\x2f\xfd\x00", "is zstd"),
        (b"\xfd7zXZ\x00", "is xz"),
        (b"PK\x03\x04", "is zip"),
        (b"\x43\x27\x41\x1a\x00", "is 2bit"),
        (">one\nACGT\n".encode("utf-16"), "is UTF-16"),
        (b"file\tspecies\tassembly\n", "looks like a table, whose name must end in .tsv"),
        (b">one\rACGT\rACGT\r", "line 1: line ends are CR alone"),
        (b">one\nACGT\nACGT\r>two\rACGT", "line 3: line ends are CR alone"),
        (b">one\nACGT\nAC\nACJT\n", "position 9 (line 4): 'J'"),
        (b">one\r\nACGT\r\nAC\r\nACJT\r\n", "position 9 (line 4): 'J'"),
        (b">one\nACGT\nAC>two\n", "position 7 (line 3): '>'"),
        (b">\xff one\nACGT\n", "line 1: b'\\xff one': the name of a contig must be UTF-8 text"),
    ],
)
def test_what_a_file_is_instead(text: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_text(tmp_path, text)
    assert_one_line(error, tmp_path / "genome.fa")


def test_the_place_is_right_in_blocks_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in range(1, 24):
        monkeypatch.setattr(fasta, "BLOCK_BYTES", size)
        with pytest.raises(ValueError, match=re.escape("position 9 (line 4): 'J'")):
            read_text(tmp_path, b">one\nACGT\nAC\nACJT\n")
        for text in (b">one\rACGT\rACGT\r", b">one\nACGT\nACGT\r>two\rACGT"):
            with pytest.raises(ValueError, match="line ends are CR alone"):
                read_text(tmp_path, text)


def test_a_byte_order_mark_and_a_description_in_latin_1(tmp_path: Path) -> None:
    text = b"\xef\xbb\xbf>one M\xfcller 1902\nACGT\n"
    assert read_text(tmp_path, text) == [("one", b"ACGT")]
    assert read_text(tmp_path, gzip.compress(text)) == [("one", b"ACGT")]


def test_a_truncated_file_says_how_long_it_is(tmp_path: Path) -> None:
    whole = gzip.compress(b">one\n" + b"GATTACATTAGACAT\n" * 40)
    with pytest.raises(ValueError, match=f"its {len(whole) - 9} bytes end before its end mark"):
        read_text(tmp_path, whole[:-9])
