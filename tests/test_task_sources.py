"""Where the tasks of a table come from: folders, and datasets of the hub."""

import json
import re
from pathlib import Path

import pytest
from task_folders import draw, write_rows, write_task

from nucleotide_transformer.errors import InputError, MissingInputError
from nucleotide_transformer.finetuning.task_sources import fetch_tasks, find_tasks


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        write_task(tmp_path / "tasks", name)
    return tmp_path / "tasks"


def test_tasks_are_found_by_their_tables(tasks: Path, tmp_path: Path) -> None:
    (tasks / "notes").mkdir()
    (tasks / "readme.txt").write_text("x")
    found = find_tasks(str(tasks), tmp_path / "cache", names=("b", "a"))
    assert [task.name for task in found] == ["b", "a"]
    with pytest.raises(InputError, match="task = 'c': there are a, b"):
        find_tasks(str(tasks), tmp_path / "cache", names=("c",))
    (tasks / "a" / "test.csv").unlink()
    with pytest.raises(MissingInputError, match=r"a: no test set: must have one of test\.csv\.gz"):
        find_tasks(str(tasks), tmp_path / "cache")
    write_rows(tasks / "b" / "test.tsv", [])
    with pytest.raises(InputError, match=r"test\.csv, test\.tsv: must be one of them"):
        find_tasks(str(tasks), tmp_path / "cache", names=("b",))
    with pytest.raises(MissingInputError, match="notes: no task: must hold a folder for each task"):
        find_tasks(str(tasks / "notes"), tmp_path / "cache")
    with pytest.raises(MissingInputError, match="absent: no such folder, and no owner/name"):
        find_tasks("absent", tmp_path / "cache")


def test_a_dataset_with_a_column_of_tasks(tmp_path: Path) -> None:
    """As the revised set on the hub is; here from a folder, which `datasets` loads alike."""
    pytest.importorskip("datasets")
    import pyarrow
    from pyarrow import parquet

    for split, seed in (("train", 0), ("test", 1)):
        rows = [(f"t{i % 2}", *row) for i, row in enumerate(draw(12, seed) * 2)]
        columns = dict(
            zip(("task", "name", "sequence", "label"), zip(*rows, strict=True), strict=True)
        )
        table = pyarrow.table(columns | {"label": [int(label) for label in columns["label"]]})
        (tmp_path / "hub").mkdir(exist_ok=True)
        parquet.write_table(table, tmp_path / "hub" / f"{split}-00000-of-00001.parquet")
    folder = fetch_tasks(str(tmp_path / "hub"), tmp_path / "cache", revision="v2")
    for source, revision, difference in (
        ("owner/name", "v2", f"source = '{tmp_path / 'hub'}', not 'owner/name'"),
        ("owner/name", None, "source = "),
    ):
        with pytest.raises(InputError, match=f"cache: holds tables with {re.escape(difference)}"):
            find_tasks(source, folder, revision=revision)
    settings = json.loads((folder / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps(settings | {"source": "owner/name"}))
    with pytest.raises(InputError, match="revision = 'v2', not 'v3': choose another output"):
        find_tasks("owner/name", folder, revision="v3")
    found = find_tasks("owner/name", folder, revision="v2")  # there, and not asked for again
    assert [task.name for task in found] == ["t0", "t1"]
    assert {task.train.name for task in found} == {"train.parquet"}


def test_a_dataset_writes_nowhere_else(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    import pyarrow
    from pyarrow import parquet

    (tmp_path / "hub").mkdir()
    for split in ("train", "test"):
        for name in ("../../outside", str(tmp_path / "outside")):
            columns = {"task": [name] * 2, "sequence": ["ACGT"] * 2, "label": [0, 1]}
            file = tmp_path / "hub" / f"{split}-00000-of-00001.parquet"
            parquet.write_table(pyarrow.table(columns), file)
    with pytest.raises(InputError, match=r"task = '\S*outside': must be a name without a folder"):
        fetch_tasks(str(tmp_path / "hub"), tmp_path / "deep" / "cache")
    assert not (tmp_path / "outside").exists()
    assert not list((tmp_path / "deep").iterdir())


def test_a_cache_of_before_sources_were_noted_is_taken_as_it_is(tasks: Path) -> None:
    assert [task.name for task in find_tasks("owner/name", tasks)] == ["a", "b"]
    with pytest.raises(InputError, match="source = 'owner/name', not 'owner/other'"):
        find_tasks("owner/other", tasks)
