"""The notebooks as they are stored, and (slow; `make notebooks`) run again with the checkpoint of this repository."""

import asyncio
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from omni123_hf.pipelines.registry import checkpoint_revision, resolve_checkpoint


sys.path.append(str(Path(__file__).resolve().parents[2] / "notebooks"))

import execute as tool  # noqa: E402


PATHS = tool.notebooks()
IDS = [path.stem for path in PATHS]


def notebook(*cells: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])


@pytest.fixture(scope="module")
def executed():
    """All notebooks, two at a time, each in an empty folder."""
    return asyncio.run(tool.execute_all(PATHS, jobs=2))


def test_there_are_the_three_that_the_readme_names():
    readme = (tool.HERE / "README.md").read_text()
    assert len(PATHS) == 3 and all(path.name in readme for path in PATHS)


@pytest.mark.parametrize("path", PATHS, ids=IDS)
def test_stored_outputs_are_clean_and_of_this_code_and_checkpoint(path):
    stored = tool.read(path)
    assert tool.problems(stored) == []
    assert any("image/png" in kinds for kinds in tool.output_kinds(stored))
    revision = checkpoint_revision(resolve_checkpoint(tool.CHECKPOINT))
    assert stored.metadata["omni123"]["checkpoint"] == revision, "run: python notebooks/execute.py"
    assert set(stored.metadata) == {"kernelspec", "language_info", "omni123"}
    assert not any(cell.metadata for cell in stored.cells)


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=IDS)
def test_runs_and_shows_what_is_stored(path, executed):
    fresh = executed[path]
    if isinstance(fresh, BaseException):
        raise fresh
    # Another version of a library may have a warning to give; it need not be stored.
    kinds = [[kind for kind in cell if kind != "stderr"] for cell in tool.output_kinds(fresh)]
    assert kinds == tool.output_kinds(tool.read(path))


def test_a_failing_cell_is_reported_and_nothing_is_stored(tmp_path, monkeypatch, capsys):
    path = tmp_path / "bad.ipynb"
    nbformat.write(notebook("1 + 1", "assert 1 == 2"), path)
    before = path.read_bytes()
    monkeypatch.setattr(tool, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["execute.py", "bad"])
    assert tool.main() == 1
    assert "AssertionError" in capsys.readouterr().err
    assert path.read_bytes() == before
    result = asyncio.run(tool.execute_all([path], jobs=1))[path]
    assert isinstance(result, CellExecutionError)


def test_a_notebook_runs_in_this_interpreter_and_is_stored_clean(tmp_path, monkeypatch):
    path = tmp_path / "good.ipynb"
    source = "import sys\nfrom PIL import Image\nprint(sys.prefix == {!r})\nImage.new('RGB', (40, 30), 'red')"
    nbformat.write(notebook(source.format(sys.prefix)), path)
    monkeypatch.setattr(tool, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["execute.py"])
    assert tool.main() == 0
    stored = tool.read(path)
    assert tool.problems(stored) == []
    text, picture = stored.cells[0].outputs
    assert text.text == "True\n"
    assert set(picture.data) == {"image/png", "text/plain"}
    assert [file.name for file in tmp_path.iterdir()] == ["good.ipynb"]


def test_what_must_not_be_stored_is_found():
    bad = notebook("print('x')", "1")
    for number, cell in enumerate(bad.cells, 1):
        cell.execution_count = number
    bad.metadata["omni123"] = {"sources": tool.sources_hash(bad)}
    assert tool.problems(bad) == []
    bad.cells[0].outputs = [nbformat.v4.new_output("stream", name="stderr", text="a warning")]
    bad.cells[1].outputs = [nbformat.v4.new_output("stream", name="stdout", text="saved to /home/someone/x")]
    bad.cells[1].source = "2"
    found = " ".join(tool.problems(bad))
    assert "standard error" in found and "/home/" in found and "other code" in found
    bad.cells[1].execution_count = 7
    assert "top to bottom" in " ".join(tool.problems(bad))
