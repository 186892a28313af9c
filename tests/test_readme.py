"""What the documents say that can be checked without running it: links, commands, names, sizes."""

import json
import re
from pathlib import Path
from typing import Any

import jax
import pytest

import nucleotide_transformer
from nucleotide_transformer.cli import COMMANDS
from nucleotide_transformer.model import init_params
from nucleotide_transformer.weights.hub import RELEASED

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "experiments").rglob("*.md")]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def make_anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert not anchor or anchor in make_anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    """Every `nt ...` at the start of a line of code, or of a span of code."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"(?:^|`)nt ([a-z][a-z-]*(?: [a-z][a-z-]*)?)", text, flags=re.MULTILINE)
    groups = {name.split()[0] for name in COMMANDS if " " in name}
    for words in found:
        first = words.split()[0]
        assert words in COMMANDS or first in COMMANDS or words in groups, words


def test_the_citation_names_this_version_and_licence() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {nucleotide_transformer.__version__}\n" in citation
    assert "\nlicense: Apache-2.0\n" in citation


def test_names_of_the_readme_can_be_imported() -> None:
    lines = re.findall(r"^from nucleotide_transformer import (.+)$", README, flags=re.MULTILINE)
    names = {name.strip() for line in lines for name in line.split(",")}
    assert names
    for name in names:
        assert getattr(nucleotide_transformer, name)


def test_the_table_of_models_is_that_of_the_package() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \|.*\| ([^|]+) \|$", README, flags=re.MULTILINE)
    assert {name for name, *_ in rows} == RELEASED.keys()
    for name, size, license_ in rows:
        config = RELEASED[name].config
        params = jax.eval_shape(lambda config=config: init_params(jax.random.key(0), config))
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == int(size.replace(",", ""))
        assert RELEASED[name].license.casefold() == license_.casefold().replace(" ", "-")


GROUPS = {
    "model_held_out.json": {
        "held-out blocks: archaea": "Archaea",
        "bacteria": "Bacteria",
        "fungi": "Fungi",
        "protozoa": "Protozoa",
        "vertebrates other than mammals": "Other vertebrate",
        "mammals": "Mammal",
        "invertebrates": "Invertebrate",
        "all held-out blocks": "all",
    },
    "model_unseen.json": {"species never seen: *E. coli*": "Bacteria", "*T. brucei*": "Protozoa"},
}
"""Rows of the README's table, by the file that they are of."""


def make_row(name: str, part: dict[str, Any]) -> str:
    model, chains = (part["predictors"][each] for each in ("this model", "markov_mixture"))
    nats, error = chains["difference"]["cross_entropy"], chains["difference"]["error"]
    difference = f"{nats:+.3f} ± {error:.3f}"
    cells = [name, f"{part['num_sequences']:,}"]
    cells += [f"{each['cross_entropy']:.3f}" for each in (model, chains)]
    cells += [f"**{difference}**" if nats > 0 else difference]
    cells += [f"{100 * each['accuracy']:.2f} %" for each in (model, chains)]
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("file", GROUPS)
def test_the_table_of_the_packaged_model_is_what_was_measured(file: str) -> None:
    results = json.loads((ROOT / "experiments/results" / file).read_text())
    parts = {"all": results["all"], **results["groups"]}
    rows = [make_row(name, parts[group]) for name, group in GROUPS[file].items()]
    assert "\n".join(rows) in README
    assert file == "model_unseen.json" or set(parts) == set(GROUPS[file].values())


def test_the_table_of_make_pretrain_is_what_was_measured() -> None:
    results = json.loads((ROOT / "experiments/results/quickstart_evaluation.json").read_text())
    for name, row in results["all"]["predictors"].items():
        error, other = row["standard_errors"], row["difference"]
        cells = [
            f"{row['cross_entropy']:.4f} ± {error['cross_entropy']:.4f}",
            f"{row['perplexity']:,.1f}",
            f"{100 * row['accuracy']:.2f} ± {100 * error['accuracy']:.2f} %",
            f"{row['bits_per_nucleotide']:.4f} ± {error['bits_per_nucleotide']:.4f}",
            f"{other['cross_entropy']:+.4f} ± {other['error']:.4f}" if other else "",
        ]
        assert f"| {name} | {' | '.join(cells)} |".replace("|  |", "| |") in README
