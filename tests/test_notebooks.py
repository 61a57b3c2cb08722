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
def test_a_notebook_runs_from_its_beginning_to_its_end(path, tmp_path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("matplotlib")
    notebook = nbformat.read(path, 4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=1800, resources=resources).execute()
