"""demo.ipynb: it runs from its first cell to its last, and is kept without outputs."""

import json
import re
from pathlib import Path

import pytest

from tests.helpers import ROOT

NOTEBOOK = ROOT / "demo.ipynb"


def cells(kind: str) -> list[dict]:
    return [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def test_is_kept_without_outputs():
    assert cells("code")
    for cell in cells("code"):
        assert cell["outputs"] == [] and cell["execution_count"] is None, cell["source"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, list]:
    """The notebook as it is, but for a smaller data set in another folder; a command that fails fails its cell."""
    nbformat = pytest.importorskip("nbformat", reason="needs pip install nbformat")
    nbclient = pytest.importorskip("nbclient", reason="needs pip install nbclient")
    pytest.importorskip("ipykernel", reason="needs pip install ipykernel")
    out = tmp_path_factory.mktemp("notebook") / "demo"
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = re.sub(r"^(!.*)$", r"\1\nassert _exit_code == 0", cell.source, flags=re.M)
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source += f"\nGROUPS, EPOCHS, DEMO = 4, 1, {str(out)!r}"
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(ROOT)}}).execute()
    return out, [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_all_cells_run(run):
    out, executed = run
    assert len(executed) == len(cells("code"))
    text = "".join(output.get("text", "") for cell in executed for output in cell.outputs)
    assert "fused" in text and "error" not in text, text
    for name in ("overlay.mp4", "timeline.csv", "record/fusion/conf_matrix.csv"):
        assert (out / name).stat().st_size > 0, name


def test_pictures_and_the_overlay_are_shown(run):
    shown = [output.data for cell in run[1] for output in cell.outputs if output.output_type == "display_data"]
    assert sum("image/png" in data for data in shown) == 4
    assert sum("data:video/mp4;base64" in data.get("text/html", "") for data in shown) == 1
