"""The notebooks of the docs: their outputs are stored, and they run."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))


def by_name(path: Path) -> str:
    return path.stem


def test_there_are_four():
    assert [path.stem for path in NOTEBOOKS] == ["first_video", "inside", "solver", "train"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_outputs_are_stored_and_small_and_show_something(path):
    text = path.read_text(encoding="utf-8")
    assert len(text) < 2e6
    cells = json.loads(text)["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert all(cell["execution_count"] for cell in cells if cell["cell_type"] == "code")
    assert not any(output["output_type"] == "error" for output in outputs)
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert kinds & {"image/png", "text/html"}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_a_notebook_runs_and_shows_what_is_stored(path, tmp_path):
    """Videos where videos are stored, plots where plots are, values where values are."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("matplotlib")
    notebook = nbformat.read(path, 4)
    stored = [shown(cell) for cell in notebook.cells]
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=1800, resources=resources).execute()
    assert [shown(cell) for cell in notebook.cells] == stored


def shown(cell) -> list[str]:
    """What a cell shows, without what goes to standard error; lines of text are one."""
    found = []
    for output in cell.get("outputs", []):
        if output.get("name") == "stderr":
            continue
        kind = "text" if output["output_type"] == "stream" else " ".join(sorted(output["data"]))
        if found[-1:] != ["text"] or kind != "text":
            found.append(kind)
    return found
