"""Labels of single nucleotides: read, laid out by token, learned, and predicted."""

import dataclasses
import functools
import shutil
import tracemalloc
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import save_model
from small_tasks import COMPUTE, MODEL, make_config, make_model

from nucleotide_transformer import cli
from nucleotide_transformer.commands.finetuning import read_table
from nucleotide_transformer.data.fasta import turn
from nucleotide_transformer.errors import InputError
from nucleotide_transformer.finetuning import prediction_files
from nucleotide_transformer.finetuning.predict import predict, predict_array, score_model
from nucleotide_transformer.finetuning.prediction_files import (
    PredictLabelsConfig,
    check_files,
    predict_file,
)
from nucleotide_transformer.finetuning.run import finetune
from nucleotide_transformer.finetuning.segments import (
    UNKNOWN,
    find_nucleotides,
    find_pieces,
    lay_labels,
    pick_nucleotides,
    read_segments,
)
from nucleotide_transformer.inference import embedding_files
from nucleotide_transformer.model.stacking import arrange_for_inference
from nucleotide_transformer.model.task_network import TaskNetwork
from nucleotide_transformer.pretrained import load_pretrained
from nucleotide_transformer.tokenizers import KmerTokenizer
from nucleotide_transformer.weights.adapter_files import TrainedHead

TOKENIZER = KmerTokenizer(k=3)
SEQUENCE = "ACGTNACGTACG"


def write(folder, text, bed):
    (folder / "x.fa").write_text(text)
    (folder / "x.bed").write_text("".join("\t".join(map(str, line)) + "\n" for line in bed))
    return folder / "x.fa", folder / "x.bed"


def test_intervals_become_labels_of_tiles(tmp_path):
    """A tile of nothing but N is left out, and N has no label."""
    fasta = f">one\n{'ACGTACGTAC' * 2}\n>two\nACGTA\n>three\n{'N' * 8}ACGTN\n"
    bed = [("one", 3, 5, "gene"), ("one", 4, 18, "exon"), ("two", 0, 5, "gene")]
    bed.append(("three", 4, 13, "gene"))
    data = read_segments(*write(tmp_path, fasta, bed), window=8)
    assert (data.classes, data.kind) == (("exon", "gene"), "segmentation")
    assert data.sequences[3:] == ["ACGTA", "ACGTN"]
    expected = np.full((5, 8, 2), UNKNOWN)
    for index, size in enumerate((8, 8, 4, 5, 4)):
        expected[index, :size] = 0
    expected[0, 3:5, 1] = expected[0, 4:, 0] = expected[1, :, 0] = expected[2, :2, 0] = 1
    expected[3, :5, 1] = expected[4, :4, 1] = 1
    np.testing.assert_array_equal(data.labels, expected)
    again = read_segments(*write(tmp_path, fasta, bed[:1]), window=8, classes=data.classes)
    assert again.labels[..., 0].max() == 0


def test_sets_of_one_fasta_have_each_its_own_labels(tmp_path):
    fasta, bed = write(tmp_path, f">one\n{'ACGTACGT' * 2}\n", [("one", 0, 3, "gene")])
    other = tmp_path / "test.bed"
    other.write_text("one\t8\t16\tgene\n")
    tables = {"train": fasta, "train_labels": bed, "test": fasta, "test_labels": other}
    config = make_config(tmp_path, kind="segmentation", window=8, **tables)
    train = read_table(config, "train")
    test = read_table(config, "test", like=train)
    assert [data.labels.sum(axis=1).tolist() for data in (train, test)] == [[[3], [0]], [[0], [8]]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("one", 0, 2), "line 1: no name: column 4 must say which class"),
        (("one", 0, 30, "gene"), "line 1: ends at 30: the contig in .* ends at 20"),
        (("six", 0, 3, "gene"), "line 1: there is no contig 'six' in"),
    ],
)
def test_bad_intervals_are_one_line(line, said, tmp_path):
    with pytest.raises(InputError, match=said):
        read_segments(*write(tmp_path, f">one\n{'ACGTACGTAC' * 2}\n", [line]), window=8)


def test_sequences_that_are_no_whole_contigs_are_one_line(tmp_path):
    """Rows of a table may be pieces, or have one name: an interval says nothing about them."""
    _, bed = write(tmp_path, ">one\nACGTACGT\n", [("one", 0, 3, "gene")])
    table = tmp_path / "rows.tsv"
    table.write_text("contig\tstart\tend\tsequence\none\t5\t13\tACGTACGT\n")
    with pytest.raises(InputError, match=r"sequences = '\S*rows.tsv': must be FASTA: intervals"):
        read_segments(table, bed, window=8)


def test_a_file_of_nothing_but_n_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"sequences = '\S*x.fa': must have nucleotides other th"):
        read_segments(*write(tmp_path, ">one\nNNNN\n", [("one", 0, 3, "gene")]), window=8)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("ACGTN" * 4, ["ACGTN" * 2] * 2),
        (f"{'N' * 14}A" * 2, ["NNNNNNNA"] * 2),
        ("N" * 99, []),
        ("ACG" * 12, ["ACG" * 12]),
        ("ACGTN" * 9, ["ACGTN" * 9]),  # too long without N, too: it is left to be refused
    ],
)
def test_a_tile_that_n_makes_too_long_is_halved(text, pieces):
    """Until each piece has 12 tokens at most, or nothing but N."""
    assert [text[piece] for piece in find_pieces(text, TOKENIZER, 12)] == pieces


@pytest.mark.parametrize("text", [SEQUENCE, turn(SEQUENCE)])
def test_every_nucleotide_has_one_output(text):
    """Six k-mers of three and letters; N is a letter. What is laid out comes back in its order."""
    tokens = np.append(TOKENIZER.encode(text), [1, 1])
    assert np.count_nonzero(find_nucleotides(tokens, TOKENIZER)) == len(text)
    labels = (np.arange(len(text))[:, None] % 5 < 2).astype(np.int8)
    for is_reversed in (False, True):
        laid = lay_labels(labels, tokens, TOKENIZER, is_reversed=is_reversed)
        assert laid.shape == (len(tokens), 3, 1)
        assert (laid != UNKNOWN).sum() == len(text)
        back = pick_nucleotides(laid.astype(np.float32), tokens, TOKENIZER, is_reversed=is_reversed)
        np.testing.assert_array_equal(back, labels)
    widths = [len(TOKENIZER.tokens[token]) if token > 5 else 0 for token in tokens.tolist()]
    assert find_nucleotides(tokens, TOKENIZER).sum(axis=1).tolist() == widths


def test_padding_changes_no_output():
    """Of tokens in a batch of 9 or of 16; rounding of float32 sums apart."""
    network = TaskNetwork(config=MODEL, compute=COMPUTE, num_outputs=2, per_nucleotide=True)
    model = make_model()
    params = network.take_base(model.params) | network.init(jax.random.key(1))
    tokens = model.tokenizer.encode_batch(["ACGTTGCAACGTTGCAACGTAGCT"])
    assert tokens.shape == (1, 9)
    padded = jnp.pad(jnp.asarray(tokens), ((0, 0), (0, 7)), constant_values=1)
    one, other = (network.apply(params, jnp.asarray(each)) for each in (tokens, padded))
    assert one.shape == (1, 9, 3, 2)
    assert float(jnp.std(one)) > 0.01
    np.testing.assert_allclose(other[:, :9], one, atol=1e-5)


def make_segments(folder, seed, num_contigs=24):
    """Contigs of A and T, with a stretch of G and C that is labelled; two with a run of N."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    fasta, bed = [], []
    for index in range(num_contigs):
        letters = rng.choice(list("AT"), 60)
        start, end = sorted(rng.integers(5, 55, 2).tolist())
        letters[start : end + 3] = rng.choice(list("CG"), end + 3 - start)
        fasta.append(f">c{index}\n{''.join(letters)}\n")
        bed.append((f"c{index}", start, end + 3, "island"))
    fasta.append(f">gap\nATTAA{'N' * 45}TATTGCCGTA\n>unknown\n{'N' * 60}\n")
    bed.append(("gap", 54, 58, "island"))
    return read_segments(*write(folder, "".join(fasta), bed), window=60)


def test_islands_are_found(tmp_path):
    """By the head alone, in 60 updates; loaded again, and averaged over both strands.

    The contig `gap` has 53 tokens, and goes through the model in halves.
    """
    train, validation = (make_segments(tmp_path / str(seed), seed) for seed in (0, 1))
    model = make_model()
    config = make_config(
        tmp_path,
        kind="segmentation",
        method="head",
        train=None,
        total_steps=60,
        evaluate_every_steps=30,
        patience=None,
        max_tokens=40,
    )
    result = finetune(model, train, validation, config, show=False)
    assert result.metrics["mcc"] > 0.6
    loaded = load_pretrained(result.adapter, base=model, compute=COMPUTE)
    assert score_model(loaded, validation) == pytest.approx(result.metrics, abs=1e-6)
    (found,) = predict(loaded, validation.sequences[:1])
    assert found.shape == (60, 1)
    nothing, gap, after = predict(loaded, ["N" * 60, validation.sequences[-1], "ACGT"])
    assert np.isnan(nothing).all()
    assert np.flatnonzero(np.isnan(gap[:, 0])).tolist() == list(range(5, 50))
    np.testing.assert_allclose(after, *predict(loaded, ["ACGT"]), atol=1e-6)
    with pytest.raises(InputError, match="sequence 1: 5 nt, not 4: nucleotides of sequences of se"):
        predict_array(loaded, ["ACGT", "ACGTA"])
    (turned,) = predict(loaded, [turn(validation.sequences[0])])
    np.testing.assert_allclose(turned[::-1], found, atol=1e-6)
    one = dataclasses.replace(loaded, head=dataclasses.replace(loaded.head, strand="one"))
    (alone,) = predict(one, validation.sequences[:1])
    assert np.abs(alone - found).max() > 1e-4
    fasta = tmp_path / "1" / "x.fa"
    place = {"model": "here", "input": fasta}
    output = predict_file(loaded, PredictLabelsConfig(**place, output=tmp_path / "y.bedgraph"))
    tracks = [line.split("\t") for line in output.read_text().splitlines()]
    assert tracks.pop(0) == ['track type=bedGraph name="island"']
    covered = sum(int(end) - int(start) for _, start, end, _ in tracks)
    assert covered == 24 * 60 + 15
    written = np.concatenate(
        [[float(x)] * (int(end) - int(start)) for contig, start, end, x in tracks if contig == "c0"]
    )
    np.testing.assert_allclose(written, found[:, 0], atol=6e-5)  # four digits
    with pytest.raises(InputError, match=r"y.csv.*a segmentation is written as .bedgraph"):
        predict_file(loaded, PredictLabelsConfig(**place, output=tmp_path / "y.csv"))
    place["model"] = str(result.adapter)
    check_big_wig(loaded, place, tmp_path, validation.sequences[0])


def check_big_wig(loaded, place, folder, sequence):
    """By the command: intervals of a BED, in whatever order, as the BigWig of a class."""
    big = pytest.importorskip("pyBigWig")
    bed, output = folder / "some.bed", folder / "y.bw"
    bed.write_text("c2\t0\t30\nc0\t30\t60\nc0\t0\t30\n")
    config = PredictLabelsConfig(**place, bed=bed, output=output)
    save_model(folder / "base", MODEL, "huggingface", make_model().params)
    words = [f"--{name}={value}" for name, value in (place | {"base": folder / "base"}).items()]
    assert cli.main(["predict", *words, f"--bed={bed}", f"--output={output}"]) == 0
    with big.open(str(output)) as track:
        contigs = [*(f"c{index}" for index in range(24)), "gap", "unknown"]
        assert track.chroms() == dict.fromkeys(contigs, 60)
        assert track.intervals("c1") is None
        values = track.values("c0", 0, 60)
    expected = np.concatenate(list(predict(loaded, [sequence[:30], sequence[30:]])))[:, 0]
    np.testing.assert_allclose(values, expected, atol=6e-5)
    output.unlink()
    two = dataclasses.replace(loaded.head, classes=("gene", "island"))
    with pytest.raises(InputError, match="track = None: a BigWig holds one class: must be one of"):
        predict_file(dataclasses.replace(loaded, head=two), config)
    with pytest.raises(InputError, match="track = 'exon': must be one of island"):
        predict_file(loaded, dataclasses.replace(config, track="exon"))
    bed.write_text("c0\t0\t30\nc0\t29\t60\n")
    with pytest.raises(InputError, match=r"some.bed: c0:0-30: another begins at 29"):
        predict_file(loaded, config)
    assert not list(folder.glob("y.bw*"))


def test_weights_that_inference_rounds_are_taken():
    """In bfloat16 matrices are rounded once, before they are used; the U-Net stays in float32."""
    compute = dataclasses.replace(COMPUTE, compute_dtype="bfloat16")
    network = TaskNetwork(config=MODEL, compute=compute, num_outputs=2, per_nucleotide=True)
    params = network.take_base(make_model().params) | network.init(jax.random.key(1))
    tokens = jnp.asarray(TOKENIZER.encode_batch(["ACGTTGCAACGT"]))
    found = network.apply(arrange_for_inference(params, compute), tokens)
    expected = network.apply(params, tokens)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=2e-2)  # three digits of outputs near 1


def make_segmenter(monkeypatch, num_classes, strand="one"):
    """A model whose predictions cost nothing: class c of nucleotide n has n / 100 + c."""
    classes = tuple(f"class{number}" for number in range(num_classes))
    head = TrainedHead(
        params={},
        kind="segmentation",
        classes=classes,
        pooling="mean",
        layers=(),
        strand=strand,
        max_tokens=1_000,
    )

    def give(model, sequences, **options):
        for text in sequences:
            place = np.arange(len(text), dtype=np.float32)
            yield place[:, None] // 50 / 100 + np.arange(num_classes, dtype=np.float32)

    monkeypatch.setattr(prediction_files, "predict", give)
    return dataclasses.replace(make_model(), head=head)


def test_a_table_with_other_columns_has_tracks(tmp_path, monkeypatch):
    model = make_segmenter(monkeypatch, 1)
    table = tmp_path / "x.csv"
    table.write_text(f"name,id,dna\n1,b,{'A' * 60}\n2,a,{'C' * 9}\n")
    config = PredictLabelsConfig(
        model="here",
        input=table,
        output=tmp_path / "y.bedgraph",
        sequence_column="dna",
        name_column="id",
    )
    _, *lines = predict_file(model, config).read_text().splitlines()
    assert lines == ["b\t0\t50\t0", "b\t50\t60\t0.01", "a\t0\t9\t0"]
    big = pytest.importorskip("pyBigWig")
    free = types.SimpleNamespace(free=4_400)  # for three entries, not for 69
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    output = predict_file(model, dataclasses.replace(config, output=tmp_path / "y.bw"))
    with big.open(str(output)) as track:
        assert [entry[:2] for entry in track.intervals("b")] == [(0, 50), (50, 60)]


def test_coordinates_are_read_where_they_reach_the_output(tmp_path):
    table = tmp_path / "x.csv"
    table.write_text("contig,start,end,sequence\none,1,4,ACGT\n")
    config = PredictLabelsConfig(model="here", input=table, output=tmp_path / "y.csv")
    assert check_files(config).num_nucleotides == 4
    for changes in ({"output": tmp_path / "y.bedgraph"}, {"window": 3}):
        with pytest.raises(InputError, match=r"x\.csv: row 1: start, end = '1', '4': are counted"):
            check_files(dataclasses.replace(config, **changes))


def test_tracks_need_the_memory_of_one_part(tmp_path, monkeypatch):
    """A part for each tile, from the last to the first: 1,000 nucleotides, half a megabyte."""
    model = make_segmenter(monkeypatch, 128)
    monkeypatch.setattr(embedding_files, "PART_BYTES", 1)
    write_tracks, peaks = prediction_files._write_tracks, []

    def measure(*arguments):
        tracemalloc.start()
        write_tracks(*arguments)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    monkeypatch.setattr(prediction_files, "_write_tracks", measure)
    for num_tiles in (4, 8):
        starts = [1_000 * number for number in reversed(range(num_tiles))]
        rows = [f"one,{start},{start + 1_000},{'ACGT' * 250}\n" for start in starts]
        (tmp_path / "x.csv").write_text("contig,start,end,sequence\n" + "".join(rows))
        output = tmp_path / f"{num_tiles}.bedgraph"
        config = PredictLabelsConfig(
            model="here", input=tmp_path / "x.csv", output=output, track="class2"
        )
        _, *lines = predict_file(model, config).read_text().splitlines()
        expected = range(0, 1_000 * num_tiles, 50)
        assert [int(line.split("\t")[1]) for line in lines] == list(expected)
        assert lines[1] == "one\t50\t100\t2.01"
    assert peaks[0] > 128 * 4_000
    assert peaks[1] < peaks[0] + 128 * 4_000


def test_every_class_that_a_track_may_be_of_is_named(tmp_path, monkeypatch):
    model = make_segmenter(monkeypatch, 12)
    fasta, _ = write(tmp_path, ">one\nACGT\n", [])
    config = functools.partial(PredictLabelsConfig, model="here", input=fasta)
    with pytest.raises(InputError, match=r"'exon': must be one of class0, .*, class11$"):
        predict_file(model, config(output=tmp_path / "y.bedgraph", track="exon"))
    with pytest.raises(InputError, match=r"None: a BigWig .*: must be one of class0, .*, class11$"):
        predict_file(model, config(output=tmp_path / "y.bw"))


def test_what_is_too_long_without_n_is_refused(tmp_path, monkeypatch):
    """In a table, N may be lower case or another code."""
    table = tmp_path / "x.csv"
    table.write_text(f"name,sequence\ngap,{'nR' * 750}acgt\ntwo,{'ACGT' * 750}\n")
    config = PredictLabelsConfig(model="here", input=table, output=tmp_path / "y.bedgraph")
    with pytest.raises(InputError, match="sequence 'two': 3000 nt are 1001 tokens: the model take"):
        predict_file(make_segmenter(monkeypatch, 1), config)


@pytest.mark.parametrize("strand", ["one", "both"])
@pytest.mark.parametrize(("text", "said"), [("", "sequence 2"), ("AC!T", "sequence 2, position 2")])
def test_a_bad_sequence_has_its_own_number(text, said, strand, monkeypatch):
    model = make_segmenter(monkeypatch, 1, strand)
    with pytest.raises(InputError, match=f"^{said}"):
        list(predict(model, iter(["ACGT", "CCC", text])))
