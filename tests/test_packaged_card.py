"""The card of a trained model: what it says, from which records, and which it refuses."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
from packaged_models import ROOT, write_evaluation, write_genomes

from nucleotide_transformer.config import ModelConfig
from nucleotide_transformer.configfile import load_config
from nucleotide_transformer.errors import InputError, MissingInputError
from nucleotide_transformer.packaging.card import (
    Facts,
    compare,
    describe_compute,
    make_trained_card,
)
from nucleotide_transformer.packaging.records import (
    EarlierRun,
    RunRecord,
    SeedRun,
    check_earlier_recipes,
    check_recipe,
    read_earlier_runs,
    read_evaluation,
    read_genomes,
)
from nucleotide_transformer.packaging.rounding import Rounding

RECIPE = ROOT / "experiments" / "quickstart.toml"


@pytest.fixture
def facts(tmp_path):
    """Of an unfinished run of the quickstart."""
    run = dataclasses.replace(load_config(RECIPE), seed=7)
    record = RunRecord(Path("runs/x/checkpoints/40"), run, "digest", None, 40, 40, 1.2345, 0)
    return Facts(
        name="3M",
        license="apache-2.0",
        num_parameters=2_460_000,
        config=ModelConfig(num_layers=2, max_positions=256),
        record=record,
        earlier=(),
        genomes=read_genomes(write_genomes(tmp_path)),
        unseen=[],
        dtype="float16",
        roundings=(Rounding("float16", 0.0043, 0.00054, 4e-6),),
        recipes=(),
        hardware="",
        results=None,
        unseen_results=None,
        seeds=(),
    )


def test_it_says_what_the_records_say(facts):
    facts = dataclasses.replace(facts, unseen=facts.genomes, hardware="an abacus")
    card = make_trained_card(facts)
    assert "\nlicense: apache-2.0\n" in card.split("---")[1]
    assert "\n# 3M\n" in card
    assert "of 2.5 million parameters" in card
    assert "2 layers, width 512" in card
    assert "positions up to 256 tokens" in card
    assert "2 files of 2 species, 60,000 nucleotides" in card
    assert card.count("| *Ursus minor* | v0 | Made up | 30,000 | terms 0 | no |") == 2
    assert card.count("| *Lupus \\| major* | v1 | Made up | 30,000 | terms 1 | yes |") == 2
    run = facts.record.config
    rate = run.optimizer.peak_learning_rate
    assert f"| `optimizer.peak_learning_rate` | `0.0001` | `{rate}` |" in card
    assert "Seed 7, in float32." in card
    assert "`compute." not in card
    tokens = run.tokens_per_update
    assert f"\n| 1 | 40 of {run.total_steps:,} | {40 * tokens:,} | 1.23 |\n\nHours are" in card
    assert "without compiling, evaluating and saving, on an abacus.\n" in card
    assert "| float16 | 0.0043 | 0.00054 | +4e-06 |" in card
    assert "sequences of 256 tokens, 1,530 nucleotides at most" in card
    assert "**It must not be used** for diagnosis" in card
    assert "none of the models that InstaDeep published" in card
    assert str(ROOT) not in card


def test_what_is_not_known_is_not_in_it(facts):
    card = make_trained_card(facts)
    for words in ("## Results", "make model", "saving,", "No part of these", "seeds", "| all |"):
        assert words not in card


def test_several_runs_add_up(facts):
    record = facts.record._replace(
        config=dataclasses.replace(facts.record.config, init_from="runs/first"),
        num_untimed=3,
        started_from="5" * 64,
    )
    earlier = (EarlierRun(2_496, 20_447_232, 3.372, 0), EarlierRun(10, 81_920, 0.5, 2))
    tokens = 40 * record.config.tokens_per_update
    card = make_trained_card(
        dataclasses.replace(
            facts,
            record=record,
            earlier=earlier,
            hardware="an abacus",
            recipes=[Path("experiments/model/x.toml")] * 3,
        )
    )
    for row in (
        "| 1 | 2,496 | 20,447,232 | 3.37 |",
        "| 2 | 10 | 81,920 | 0.5 |",
        f"| 3 | 40 of {record.config.total_steps:,} | {tokens:,} | 1.23 |",
        f"| all | 2,546 | {20_447_232 + 81_920 + tokens:,} | 5.11 |",
    ):
        assert f"\n{row}\n" in card
    assert "evaluating and saving, on an abacus; 5 updates were not timed." in card
    assert "these settings of the last of 3 runs:" in card
    place = "`experiments/model/x.toml`"
    assert f"{place},\nthen {place},\nthen {place} have all of them. In a checkout" in card
    assert f"the last run started from have the SHA-256 `{'5' * 64}`\n(of names" in card
    assert "this folder:\n\n```bash\nmake model" in card
    assert "runs/first" not in card
    unknown = describe_compute(record._replace(started_from=None), "", earlier)
    wanted = "as\nthey are packaged. The checkpoints of\nthe last run do not record the weights"
    assert wanted in unknown


def test_runs_before_that_nobody_knows_enough_of(facts, tmp_path):
    went_on = dataclasses.replace(facts.record.config, init_from="runs/first")
    record = facts.record._replace(config=went_on)
    file = tmp_path / "first.jsonl"
    message = "init_from = 'runs/first', earlier = 0: give the metrics.jsonl of each run before it"
    with pytest.raises(InputError, match=message):
        read_earlier_runs((), record)
    with pytest.raises(InputError, match="init_from = None, earlier = 1: give the metrics"):
        read_earlier_runs((file,), facts.record)
    for place in (file, tmp_path):
        with pytest.raises(MissingInputError, match=f"{place.name}: no such file"):
            read_earlier_runs((place,), record)
    for text, message in (
        ("", "no line of training"),
        ('{"kind": "train", "step": 0, "tokens": 0}\n', "no line of training"),
        ('{"kind": "train", "step": 3}\n', "line 1: .*: must have kind, step and tokens"),
        ("3\n", "line 1: 3: must have kind, step and tokens"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=rf"first\.jsonl: {message}[^\n]*$"):
            read_earlier_runs((file,), record)


@pytest.mark.parametrize(
    ("recipes", "start", "tokens", "message"),
    [
        ([RECIPE], "runs/quickstart", 2_211_840, None),
        ([RECIPE], "runs/quickstart/checkpoints/40", 2_211_840, None),
        ([], "runs/quickstart", 2_211_840, r"earlier_recipes = \[\]: name the config of each run"),
        ([RECIPE] * 2, "runs/quickstart", 2_211_840, r"earlier_recipes = \['.*\]: name the config"),
        ([RECIPE], "runs/other", 2_211_840, "output = runs/quickstart, not runs/other: "),
        ([RECIPE], "runs/quickstart", 8_192, "total_tokens = 2,211,840, not 8,192: "),
    ],
)
def test_recipes_of_the_runs_before(recipes, start, tokens, message, facts):
    record = facts.record._replace(config=dataclasses.replace(facts.record.config, init_from=start))
    earlier = [EarlierRun(500, tokens, 1.0, 0)]
    if message is None:
        check_earlier_recipes(recipes, earlier, record)
    else:
        with pytest.raises(InputError, match=message):
            check_earlier_recipes(recipes, earlier, record)


def test_only_a_recipe_that_repeats_the_run_is_named(facts):
    config = load_config(RECIPE)
    record = facts.record._replace(config=config, newest=config.total_steps)
    check_recipe(record, RECIPE)
    with pytest.raises(
        InputError, match=r"checkpoints: 1,079 of 1,080 updates: let the run end, or "
    ):
        check_recipe(record._replace(newest=config.total_steps - 1), RECIPE)
    card = make_trained_card(dataclasses.replace(facts, recipes=[RECIPE]))
    assert "experiments/quickstart.toml` has all of them" in card
    assert "\nmake model\n" in card
    of_a_machine = {"output": Path("elsewhere"), "sequences_per_device": 3, "log_every_steps": 99}
    check_recipe(record._replace(config=dataclasses.replace(record.config, **of_a_machine)), RECIPE)
    model = dataclasses.replace(config.model, init="he_uniform")
    longer = config.total_tokens + config.tokens_per_update
    for name, changes in (
        ("seed", {"seed": 7}),
        ("total_tokens", {"total_tokens": longer}),
        ("model.init", {"model": model}),
    ):
        other = record._replace(config=dataclasses.replace(config, **changes))
        pattern = rf"quickstart\.toml: {name} = \S+ there, \S+ here: the card would promise [^\n]*$"
        with pytest.raises(InputError, match=pattern):
            check_recipe(other, RECIPE)


def test_results_by_group_unseen_species_and_other_seeds(facts, tmp_path):
    results, unseen, other = (
        read_evaluation(write_evaluation(tmp_path / "own.json", nats, step=40), {"step": 40})
        for nats in (7.6, 7.8, 7.613)
    )
    seeds = (SeedRun(0, 81_920, results), SeedRun(4, 81_920, other))
    card = make_trained_card(
        dataclasses.replace(facts, results=results, unseen_results=unseen, seeds=seeds)
    )
    bits = [nats / 6 / math.log(2) for nats in (7.5, 7.8, 7.65)]
    row = (
        f"| Fungi | 1,200 | 7.5000 ± 0.0100 | {bits[0]:.4f} | 2.00% | {bits[1]:.4f}"
        f" | 2.00% | -0.3000 ± 0.0020 | {bits[2]:.4f} | 2.00% | -0.1500 ± 0.0020 |"
    )
    assert "\nguess over all 6-mers has 8.3178 nats" in card
    assert row in card
    assert "| no group | 34 | 7.6000 " in card
    assert "| all | 1,234 | 7.8000 ± 0.0100 |" in card
    assert "2 runs of this recipe, each of 81,920 tokens." in card
    assert "|  | tokens | seed 0 | seed 4 | apart |" in card
    assert "| Fungi | 1,200 | 7.5000 | 7.5130 | 0.0130 |" in card


def test_an_evaluation_without_errors_is_shown_without_them(tmp_path):
    file = write_evaluation(tmp_path / "one.json", 7.6, step=40)
    content = json.loads(file.read_text())
    for part in (content["all"], *content["groups"].values()):
        for row in part["predictors"].values():
            row |= {"standard_errors": None, "difference": None, "perplexity": None}
    file.write_text(json.dumps(content))
    table = compare(read_evaluation(file))
    assert "±" not in table
    assert table.splitlines()[-1].startswith("| all | 1,234 | 7.6000 | ")


def test_an_evaluation_of_something_else(tmp_path):
    head = {"parameters": "p", "corpus": "c", "baselines": "c"}
    file = write_evaluation(tmp_path / "own.json", 7.6, step=40, **head)
    read_evaluation(file, {"step": 40, **head})
    read_evaluation(file, {"corpus": None}, unseen_by="other")
    read_evaluation(write_evaluation(tmp_path / "of_run.json", 7.6, step=40), head)
    for name in ("step", *head):
        with pytest.raises(
            InputError, match=rf"own\.json: {name} = '?\w+'?, not 'x': evaluate [^\n]*$"
        ):
            read_evaluation(file, {name: "x"})
    trained = write_evaluation(tmp_path / "trained.json", 7.6, step=40, split="train")
    with pytest.raises(InputError, match=r"trained\.json: split = 'train': must be held out$"):
        read_evaluation(trained)
    with pytest.raises(InputError, match=r"own\.json: corpus = 'c': must be another one than "):
        read_evaluation(file, unseen_by="c")
    with pytest.raises(InputError, match=r"of_run\.json: corpus = None: must be another one than "):
        read_evaluation(tmp_path / "of_run.json", unseen_by="c")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content.pop("groups"), "must have `all` and `groups`"),
        (
            lambda content: content["groups"]["Fungi"]["predictors"].pop("this model"),
            "Fungi: predictors must have 'this model'",
        ),
        (
            lambda content: content["all"]["predictors"].update(frequency=7.6),
            "all: predictors must have 'this model', and a row for each",
        ),
        (
            lambda content: content["all"]["predictors"]["frequency"].update(accuracy=None),
            r"all: predictors\.frequency\.accuracy = None: must be a number",
        ),
    ],
)
def test_an_evaluation_that_lacks_something(damage, message, tmp_path):
    file = write_evaluation(tmp_path / "own.json", 7.6, step=40)
    content = json.loads(file.read_text())
    damage(content)
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"own\.json: {message}[^\n]*$"):
        read_evaluation(file)


def test_genomes_without_terms_or_numbers(tmp_path):
    table = write_genomes(tmp_path)
    table.write_text(table.read_text().replace("\tterms 1\t", "\t\t"))
    with pytest.raises(InputError, match=r"genomes\.tsv: line 3: no licence: [^\n]*$"):
        read_genomes(table)
    table.write_text(table.read_text().replace("\t30000\t", "\t30,000\t"))
    with pytest.raises(
        InputError, match=r"line 2: nucleotides = '30,000': must be a whole number$"
    ):
        read_genomes(table)
    with pytest.raises(MissingInputError, match=r"none\.tsv: no such table$"):
        read_genomes(tmp_path / "none.tsv")
