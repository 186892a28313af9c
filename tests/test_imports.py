"""The shape of the code: imports point one way, and files and functions stay short.

The import graph is read from the source, imports inside functions included.
"""

import ast
import functools
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import nucleotide_transformer

ROOT = Path(__file__).parent.parent
PACKAGE = "nucleotide_transformer"

ORDER = (
    {"types"},
    {"errors"},
    {"bars", "console", "files", "namesake", "token_ids"},
    {"optimizer_config"},
    {"config"},
    {"fields", "tokenizers"},
    {"configfile", "option_help"},
    {"options"},
    {"data", "model"},
    {"weights"},
    {"compat"},
    {"pretrained"},
    {"verification"},
    {"training", "inference"},
    {"plots"},
    {"pretraining", "finetuning", "variants"},
    {"analysis"},
    {"benchmark", "packaging"},
    {"environment"},
    {"commands"},
    {"cli", "completion"},
)
"""A module imports what stands above it, and a folder of modules also its own parts."""

WITHOUT_JAX = {
    *(
        "types",
        "errors",
        "bars",
        "console",
        "files",
        "namesake",
        "token_ids",
        "optimizer_config",
        "config",
        "fields",
    ),
    *("configfile", "option_help", "options", "tokenizers", "data"),
}
JAX = {"jax", "jaxlib", "haiku", "optax", "orbax", "chex", "flax"}
COLLECTIVES = {
    *("pmap", "psum", "pmean", "pmax", "pmin", "psum_scatter", "all_gather"),
    *("all_to_all", "ppermute", "pshuffle", "pbroadcast", "axis_index", "axis_size"),
}
PLAIN_ERRORS = {"ValueError", "FileNotFoundError", "FileExistsError", "NotADirectoryError"}
RAISES_PLAIN_ERRORS = {"weights.pickled_arrays"}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    """`nucleotide_transformer/data/corpus.py` -> `data.corpus`; the package itself is `""`."""
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of what is imported: `from a import b` is `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def group(module: str) -> str:
    return module.split(".")[0]


def rank(module: str) -> int:
    places = [place for place, groups in enumerate(ORDER) if group(module) in groups]
    assert places, f"{module}: say in ORDER where it stands"
    return places[0]


def package_imports(tree: ast.AST, modules: set[str]) -> set[str]:
    """The modules of the package that a module needs, of those that there are."""
    found = set()
    for name in imports(tree):
        if name.split(".")[0] != PACKAGE:
            continue
        inner = name.removeprefix(PACKAGE).removeprefix(".")
        if inner == "__version__":
            continue
        parent = inner.rpartition(".")[0]
        assert inner in modules or parent in modules, f"import of {name}: name the module it is in"
        found.add(inner if inner in modules else parent)
    return found


def breaks_order(module: str, imported: str) -> bool:
    return group(module) != group(imported) and rank(imported) >= rank(module)


def named(tree: ast.AST) -> set[str]:
    """Every identifier of a source: variables, attributes and imported names."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return names | {name.rpartition(".")[2] for name in imports(tree)}


def function_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, without the docstring."""
    assert node.end_lineno
    lines = node.end_lineno - node.lineno + 1
    if ast.get_docstring(node) is None:
        return lines
    docstring = node.body[0]
    assert docstring.end_lineno
    return lines - (docstring.end_lineno - docstring.lineno + 1)


def functions(tree: ast.AST) -> dict[str, int]:
    """Every function with its lines; of those of one name the longest."""
    found: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = max(function_lines(node), found.get(node.name, 0))
    return found


@functools.cache
def trees() -> dict[str, ast.Module]:
    """The parsed modules of the package, its own `__init__` (under `""`) included."""
    files = python_files(PACKAGE)
    return {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in files}


@functools.cache
def graph() -> dict[str, set[str]]:
    """Module -> what it imports, without the package's `__init__`: that one only names, lazily,
    where the public names are."""
    modules = {name: tree for name, tree in trees().items() if name}
    return {name: package_imports(tree, set(modules)) for name, tree in modules.items()}


def test_imports_point_one_way() -> None:
    wrong = [
        f"{module} imports {imported}"
        for module, needs in graph().items()
        for imported in needs
        if breaks_order(module, imported)
    ]
    assert wrong == []


def test_contributing_shows_the_order() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = text.partition("```\ntypes ")[2].partition("```")[0]
    places = f"types {shown}".split("->")
    assert [set(place.replace(",", " ").split()) for place in places] == list(ORDER)


def test_what_a_user_can_mend_has_its_own_class() -> None:
    """A plain error is a bug of ours, or is caught and told anew before it reaches anyone."""
    wrong = [
        f"{module} line {node.lineno}: raises {name}"
        for module, tree in trees().items()
        if module not in RAISES_PLAIN_ERRORS
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
        for name in named(node.exc.func) & PLAIN_ERRORS
    ]
    assert wrong == []


def test_no_imports_run_in_a_circle() -> None:
    graphlib.TopologicalSorter(graph()).prepare()  # raises CycleError, which names the circle


def test_only_numpy_below_tokenizers_and_data() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, tree in trees().items()
        if group(module) in WITHOUT_JAX
        for name in imports(tree)
        if name.split(".")[0] in JAX
    ]
    assert wrong == []


@pytest.mark.parametrize("name", ["__version__", "KmerTokenizer", "PretrainConfig"])
def test_tokenizer_and_configs_do_not_wait_for_jax(name: str) -> None:
    code = f"import sys; from {PACKAGE} import {name}; print('jax' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("False\n", "")


def test_every_public_name_is_where_the_package_says() -> None:
    for name in nucleotide_transformer.__all__:
        assert getattr(nucleotide_transformer, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'make_coffee'"):
        nucleotide_transformer.make_coffee  # noqa: B018


def test_only_the_step_names_collectives() -> None:
    wrong = {
        module: sorted(names & COLLECTIVES)
        for module, tree in trees().items()
        if (names := named(tree)) & COLLECTIVES and module != "training.step"
    }
    assert wrong == {}


def test_nothing_imports_experiments_tests_or_notebooks() -> None:
    outside = {"experiments", "tests", "notebooks", "conftest"}
    wrong = [
        f"{module} imports {name}"
        for module, tree in trees().items()
        for name in imports(tree)
        if name.split(".")[0] in outside
    ]
    assert wrong == []


def test_every_function_lives_where_its_noun_lives() -> None:
    rooms_without_a_name = {"utils", "util", "helpers", "common", "misc"}
    files = python_files(PACKAGE, "tests", "experiments")
    assert [path.name for path in files if path.stem in rooms_without_a_name] == []


def test_files_and_functions_stay_short() -> None:
    long = {}
    for path in python_files(PACKAGE, "tests", "experiments"):
        source, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT)
        sizes = {f"{name}::{each}": size for each, size in functions(ast.parse(source)).items()}
        long |= {each: size for each, size in sizes.items() if size > MAX_FUNCTION_LINES}
        if (num_lines := source.count("\n")) > MAX_FILE_LINES:
            long[str(name)] = num_lines
    assert long == {}


def test_the_rules_catch_what_they_forbid() -> None:
    """The checks above, on sources that break them."""
    modules = {"model", "heads", "data.corpus", "data.dataset"}
    lazy = ast.parse(f"def f():\n    from {PACKAGE} import model\n    import {PACKAGE}.data.corpus")
    assert package_imports(lazy, modules) == {"model", "data.corpus"}
    member = ast.parse(f"from {PACKAGE}.heads import MaskedLMHead")
    assert package_imports(member, modules) == {"heads"}
    with pytest.raises(AssertionError, match="name the module"):
        package_imports(ast.parse(f"from {PACKAGE} import KmerTokenizer"), modules)
    assert breaks_order("model.heads", "weights.hub")
    assert breaks_order("data.corpus", "model.layers")
    assert not breaks_order("data.dataset", "data.corpus")
    assert not breaks_order("weights.hub", "model.heads")
    assert named(ast.parse("from jax.lax import psum\njax.pmap(f)")) >= {"psum", "pmap"}
    function = ast.parse("@cached\ndef f():\n    '''One\n    two.'''\n    return 1").body[0]
    assert isinstance(function, ast.FunctionDef)
    assert function_lines(function) == 2
    assert functions(ast.parse("class A:\n    def f(self):\n        pass\ndef f(): ...")) == {
        "f": 2
    }
