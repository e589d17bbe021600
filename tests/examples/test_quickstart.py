"""The quick-start notebook runs, and was committed with what it shows."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def executed():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}).execute()
    return notebook


def shown(notebook):
    """The kinds of output of each cell of code."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [sorted({kind for item in cell.outputs for kind in item.get("data", {})}) for cell in cells]


def test_it_runs_and_shows_what_it_did(executed):
    committed = nbformat.read(NOTEBOOK, as_version=4)
    assert shown(executed) == shown(committed)
    assert all(cell.execution_count for cell in committed.cells if cell.cell_type == "code")


def test_the_manager_shows_its_report(executed):
    (report,) = [
        item["data"]["text/html"]
        for cell in executed.cells
        if cell.cell_type == "code" and cell.source.endswith("probes")
        for item in cell.outputs
        if "data" in item
    ]
    assert "tangent_kernel" in report and "Not running" not in report.split("Results")[0].split("mutual")[0]


def test_nothing_of_the_machine_is_in_it():
    text = NOTEBOOK.read_text()
    assert (
        str(Path.home()) not in text
        and str(Path(__file__).parents[2]) not in text
        and "Warning" not in text
        and '"output_type": "error"' not in text
    )
