"""The model card of a model that this project trained, made from the records of its run."""

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path

from nucleotide_transformer.config import Dtype, ModelConfig, PretrainConfig
from nucleotide_transformer.configfile import config_to_dict
from nucleotide_transformer.packaging.records import (
    Comparisons,
    EarlierRun,
    GenomeRecord,
    RunRecord,
    SeedRun,
)
from nucleotide_transformer.packaging.rounding import Rounding
from nucleotide_transformer.pretraining.scores import MODEL
from nucleotide_transformer.training.identity import flatten
from nucleotide_transformer.weights.exports import (
    describe_architecture,
    describe_layout,
    make_head,
)

_OF_A_MACHINE = ("output", "num_devices", "sequences_per_device", "log_every_steps", "data.corpus")

_START = """\
A Nucleotide Transformer of {millions:.1f} million parameters, trained from random weights on
{num_species} species by the project of the package nucleotide-transformer-jax, with which it comes.
It is none of the models that InstaDeep published: those are larger, saw other genomes and much more
of them, and have another licence.

## Use

```python
from nucleotide_transformer import load_pretrained

model = load_pretrained()  # without a network; from another place: load_pretrained("FOLDER")
tokens = model.tokenizer.encode_batch(["ATTCCGATTCCGATTCCG"])
logits = model(tokens).logits
```

{layout}
The numbers are stored in {dtype}, and the package computes in float32. transformers computes in the
type of the file, unless `from_pretrained` is given another `dtype`.

## Architecture

{architecture}.
Names and shapes are those of the published models. Vectors that the rows of the token tables shared
in training are added into the rows.
"""

_DATA = """\
## Data

{num_files} files of {num_species} species, {nucleotides:,} nucleotides (N included). Parts of them
were held out and are in no training sequence. The tables of `experiments/model` in the repository
say where each file is from and give its SHA-256, the README there what is held out.

{table}
"""

_UNSEEN = """\
No part of these was seen:

{table}
"""

_LIMITS = """\
## Limits

- It is small, and has seen {num_species} species, some of them in part only. Of others it knows
  what they share with these.
- It was trained on sequences of {window} tokens, {nucleotides:,} nucleotides at most. What is
  longer is cut into such windows, and nothing further away has an effect.
- A token is {k} nucleotides: what it says depends on the reading frame in which a sequence is cut.
- Held-out blocks share repeats and families of genes with the rest, as in any genome.
- It knows reference sequences, and learned nothing of variants in a population, of phenotypes or of
  diseases.

**It must not be used** for diagnosis or treatment, to judge a person's variants, or for any other
clinical or forensic decision: nothing has shown it to be fit for that. What was measured on
variants is in `experiments/VARIANTS.md` of the repository. Nor is it the published model: results
in papers are not its results.
"""

_LICENCE = """\
## Licence

The weights are under Apache-2.0, as the project is. The sequences that they were trained on are not
part of them and keep the terms that the table gives. They are public sequences; none came with
terms that restrict a model trained on it. The licence of a package or a repository is that of the
place where a file was found, and is named for the record. The last column says which sequences are
in the repository as well.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What a card is made from."""

    name: str
    license: str
    num_parameters: int
    config: ModelConfig
    record: RunRecord
    earlier: Sequence[EarlierRun]
    """The runs that it went on from, the first one first; empty if there are none."""
    genomes: Sequence[GenomeRecord]
    unseen: Sequence[GenomeRecord]
    dtype: Dtype
    roundings: Sequence[Rounding]
    recipes: Sequence[Path]
    """Configs of all runs, the last one last; empty if none is to be named."""
    hardware: str
    results: Comparisons | None
    unseen_results: Comparisons | None
    seeds: Sequence[SeedRun]
    """Runs of the same recipe; empty if there are none."""


def make_trained_card(facts: Facts) -> str:
    """The card, as Markdown; what is not known has no section."""
    num_species = len({genome.species for genome in facts.genomes})
    window = facts.record.config.data.sequence_tokens
    start = _START.format(
        millions=facts.num_parameters / 1e6,
        num_species=num_species,
        layout=describe_layout(facts.config, "huggingface"),
        dtype=facts.dtype,
        architecture=describe_architecture(facts.config),
    )
    data = _DATA.format(
        num_files=len(facts.genomes),
        num_species=num_species,
        nucleotides=sum(genome.num_nucleotides for genome in facts.genomes),
        table=list_genomes(facts.genomes),
    )
    limits = _LIMITS.format(
        num_species=num_species,
        window=window,
        nucleotides=facts.config.k * (window - 1),
        k=facts.config.k,
    )
    sections = [
        start,
        data,
        _UNSEEN.format(table=list_genomes(facts.unseen)) if facts.unseen else "",
        describe_recipe(facts),
        describe_compute(facts.record, facts.hardware, facts.earlier),
        describe_results(facts),
        describe_rounding(facts.roundings),
        limits,
        _LICENCE,
    ]
    head = make_head(facts.name, "huggingface", facts.license)
    return head + "\n".join(section for section in sections if section)


def list_genomes(genomes: Sequence[GenomeRecord]) -> str:
    """A table of genomes with the terms of each, sorted as they are given."""
    rows = [
        (
            f"*{genome.species}*",
            genome.assembly,
            genome.group,
            f"{genome.num_nucleotides:,}",
            genome.terms,
            "yes" if genome.ships else "no",
        )
        for genome in genomes
    ]
    return make_table(
        ("species", "assembly", "group", "nucleotides", "terms", "in the repository"), rows, {3}
    )


def describe_recipe(facts: Facts) -> str:
    """The settings of a run, the last if there are several, that are not the published ones."""
    record, recipes, num_earlier = facts.record, facts.recipes, len(facts.earlier)
    own = flatten(config_to_dict(record.config))
    published = flatten(config_to_dict(PretrainConfig()))
    rows = [
        (f"`{name}`", f"`{published[name]}`", f"`{value}`")
        for name, value in own.items()
        if value != published[name] and not name.startswith(("checkpoint.", "evaluation."))
        if name not in (*_OF_A_MACHINE, "init_from") and not name.startswith("compute.")
    ]
    runs = f" of the last of {num_earlier + 1} runs" if num_earlier else ""
    text = f"## Recipe\n\nPre-training as published, except for these settings{runs}:\n\n"
    text += make_table(("setting", "published (100M)", "here"), rows, set())
    text += f"\n\nSeed {record.config.seed}, in {record.config.compute.compute_dtype}. "
    if not recipes:
        return text.rstrip() + "\n"
    places = ",\nthen ".join(f"`{'/'.join(recipe.parts[-3:])}`" for recipe in recipes)
    return (
        f"{text}{places} {'has' if len(recipes) == 1 else 'have'} all of them. In a checkout of the"
        " repository, with the\ngenomes beside it, one command repeats corpus, training and this"
        f" folder{', but for what other seeds gave' if facts.seeds else ''}:\n\n"
        "```bash\nmake model\n```\n"
    )


def describe_compute(record: RunRecord, hardware: str, earlier: Sequence[EarlierRun] = ()) -> str:
    """Updates, tokens and hours of each run, and of all together if there are several."""
    tokens, total = record.step * record.config.tokens_per_update, record.config.total_steps
    runs = [*earlier, EarlierRun(record.step, tokens, record.hours, record.num_untimed)]
    whole = EarlierRun(*map(sum, zip(*runs, strict=True)))
    names = [*map(str, range(1, len(runs) + 1)), "all"]
    rows = [
        [name, f"{run.num_updates:,}", f"{run.num_tokens:,}", f"{run.hours:.3g}"]
        for name, run in zip(names, [*runs, whole], strict=True)
    ]
    rows[-2][1] += "" if record.step == total else f" of {total:,}"
    shown = rows if earlier else rows[:1]
    untimed = f"; {whole.num_untimed:,} updates were not timed" if whole.num_untimed else ""
    where = f", on {hardware}" if hardware else ""
    return (
        "## Compute\n\n"
        + (_describe_start(record.started_from) if earlier else "")
        + make_table(("run", "updates", "tokens", "hours"), shown, {1, 2, 3})
        + f"\n\nHours are those without compiling, evaluating and saving{where}{untimed}.\n"
    )


def _describe_start(digest: str | None) -> str:
    """What a run began with that went on from another."""
    which = (
        f"Those that\nthe last run started from have the SHA-256 `{digest}`\n"
        "(of names, shapes and float32 numbers)."
        if digest
        else "The checkpoints of\nthe last run do not record the weights that it started from."
    )
    return (
        "Each run started from the best weights of the one before, whole or rounded to 16 bits as\n"
        f"they are packaged. {which}\n\n"
    )


def describe_results(facts: Facts) -> str:
    """The evaluations that there are: held-out blocks, unseen species, other seeds."""
    parts = []
    if facts.results:
        parts.append("Held-out blocks of the species of the corpus:\n\n" + compare(facts.results))
    if facts.unseen_results:
        parts.append("Species that it never saw:\n\n" + compare(facts.unseen_results))
    if facts.seeds:
        parts.append(compare_seeds(facts.seeds))
    if not parts:
        return ""
    k = facts.config.k
    return (
        "## Results\n\nMasked tokens, all of them replaced by `<mask>`; the other predictors were"
        " fitted to the same training\ndata, and ± is a standard error over sequences. A uniform"
        f"\nguess over all {k}-mers has {k * math.log(4):.4f} nats, 2 bits per"
        " nucleotide.\n\n" + "\n\n".join(parts) + "\n"
    )


def compare(comparisons: Comparisons) -> str:
    """A table of the model and the other predictors, a row for each group."""
    others = [name for name in comparisons["all"]["predictors"] if name != MODEL]
    head = ["", "tokens", "nats", "bits per nucleotide", "accuracy"]
    for name in others:
        head += [f"{name}, bits", f"{name}, accuracy", f"{MODEL} minus {name}, nats"]
    rows = []
    for group, part in comparisons.items():
        predictors = part["predictors"]
        own, errors = predictors[MODEL], predictors[MODEL].get("standard_errors") or {}
        row = [group, f"{part['num_masked']:,}"]
        row.append(_show(own["cross_entropy"], errors.get("cross_entropy")))
        row += [f"{own['bits_per_nucleotide']:.4f}", f"{own['accuracy']:.2%}"]
        for name in others:
            other = predictors[name]
            difference = other.get("difference") or {}
            value = own["cross_entropy"] - other["cross_entropy"]
            row += [
                f"{other['bits_per_nucleotide']:.4f}",
                f"{other['accuracy']:.2%}",
                _show(value, difference.get("error"), "+"),
            ]
        rows.append(tuple(row))
    return make_table(head, rows, set(range(1, len(head))))


def compare_seeds(seeds: Sequence[SeedRun]) -> str:
    """A table of the cross-entropies of several runs, a row for each group."""
    rows = []
    for group in seeds[0].comparisons:
        nats = [run.comparisons[group]["predictors"][MODEL]["cross_entropy"] for run in seeds]
        apart = max(nats) - min(nats)
        num_masked = f"{seeds[0].comparisons[group]['num_masked']:,}"
        rows.append((group, num_masked, *(f"{value:.4f}" for value in nats), f"{apart:.4f}"))
    head = ("", "tokens", *(f"seed {run.seed}" for run in seeds), "apart")
    return (
        f"How far seeds are apart: {len(seeds)} runs of this recipe, each of"
        f" {seeds[0].num_tokens:,} tokens.\nCross-entropy in nats, of each on the same tokens:\n\n"
        + make_table(head, rows, set(range(1, len(head))))
    )


def describe_rounding(roundings: Sequence[Rounding]) -> str:
    """What 16 bits cost, in the type that is stored and in the other."""
    rows = [
        (each.dtype, f"{each.largest:.2g}", f"{each.typical:.2g}", f"{each.nats:+.1g}")
        for each in roundings
    ]
    head = ("stored in", "largest change of a logit", "root mean square", "cross-entropy, nats")
    return (
        "## Rounding\n\nAgainst the float32 parameters of the run, on sequences of the genomes in"
        f" the package:\n\n{make_table(head, rows, {1, 2, 3})}\n"
    )


def make_table(head: Sequence[str], rows: Sequence[Sequence[str]], right: set[int]) -> str:
    """A table in Markdown; columns in `right` are aligned there."""
    rule = ["---:" if column in right else "---" for column in range(len(head))]
    lines = [head, rule, *(map(_escape, row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _escape(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def _show(value: float, error: float | None, sign: str = "") -> str:
    """A number of nats, with its error if that is known."""
    text = f"{value:{sign}.4f}"
    return text if error is None or not math.isfinite(error) else f"{text} ± {error:.4f}"
