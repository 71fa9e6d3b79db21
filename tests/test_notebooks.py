"""The notebooks run from top to bottom on CPU, with the miniature; their outputs are committed."""

import pathlib
import re
import shutil

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NEEDED = ("setup.py", "skyreels_jax", "configs", "README.md")


def test_there_are_two():
    assert [path.stem for path in NOTEBOOKS] == ["generate_on_tpu", "train_on_tpu"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path, tmp_path, monkeypatch):
    for name in NEEDED:
        (tmp_path / name).symlink_to(ROOT / name)
    folder = tmp_path / "notebooks"
    folder.mkdir()
    shutil.copy(path, folder)
    # Eight virtual devices make each of its tiny products slower; two show the same.
    monkeypatch.setenv(
        "XLA_FLAGS", "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    )
    monkeypatch.setenv("SKYREELS_JAX_CACHE", str(ROOT / ".cache" / "jax"))
    notebook = nbformat.read(folder / path.name, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    ]
    assert pictures
    told = "".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", ()))
    # Where its parts are made elsewhere, a product rounds otherwise now and then.
    assert re.search(r"largest difference of a byte: [01]\b", told) or "'step': '6'" in told


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_committed(path):
    cells = nbformat.read(path, as_version=4).cells
    assert all(cell.execution_count for cell in cells if cell.cell_type == "code")
