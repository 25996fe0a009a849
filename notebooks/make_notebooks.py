"""Bring notebooks up to date: `python notebooks/make_notebooks.py` runs them all, or those that it is given.

The setup cell, the Colab badges (in the README too), the README's table of symbols in cells tagged `symbols`, and the
outputs are written here and nowhere else.
"""

import base64
import io
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

REPOSITORY = "OWNER/REPO"  # on GitHub; set it when the project has a public address
WIDGET = "application/vnd.jupyter.widget-view+json"
MOST = 950_000  # characters in a notebook
GPU = {"accelerator": "GPU", "colab": {"gpuType": "T4"}}  # without these, Colab opens a notebook on a CPU
GOOD = 'quality = "auto"', 'quality = "good"'  # outputs are made as on a GPU, on whatever machine
HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
SETUP = f"""\
import sys
from pathlib import Path

if "google.colab" in sys.modules and not Path("nst").exists():
    !git clone --quiet --depth 1 https://github.com/{REPOSITORY} nst
places = (Path.cwd(), *Path.cwd().parents, Path("nst"))
ROOT = next((place for place in places if (place / "nst_helpers").is_dir()), Path.cwd())
sys.path.insert(0, str(ROOT))
import nst_helpers as nst

%config InlineBackend.figure_formats = ["jpeg"]"""


def with_badges(text: str) -> str:
    """Return a text whose Colab badges and `git clone` commands use REPOSITORY."""
    places = r"(colab\.research\.google\.com/github/|git clone https://github\.com/)[\w.-]+/[\w.-]+"
    return re.sub(places, rf"\g<1>{REPOSITORY}", text)


def symbols() -> str:
    """Return the README's section on symbols."""
    return re.search(r"^## Symbols\n.+?(?=\n\n## )", README.read_text("utf-8"), flags=re.M | re.S)[0]


def fit(notebook: nbformat.NotebookNode) -> None:
    """Compress the figures more strongly, step by step, until the notebook is small enough."""
    figures = [
        data for cell in notebook.cells for o in cell.get("outputs", []) if "image/jpeg" in (data := o.get("data", {}))
    ]
    originals = [base64.b64decode(data["image/jpeg"]) for data in figures]
    for quality in (70, 60, 50):
        if len(nbformat.writes(notebook)) <= MOST:
            return
        for data, original in zip(figures, originals, strict=True):
            file = io.BytesIO()
            Image.open(io.BytesIO(original)).save(file, "JPEG", quality=quality, optimize=True, progressive=True)
            data["image/jpeg"] = base64.b64encode(file.getvalue()).decode()


def make(path: Path) -> None:
    """Write setup cell, badge and symbols, run the notebook in its own folder, and save it with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source = with_badges(notebook.cells[0].source)
    notebook.cells[1].source = SETUP
    for cell in notebook.cells:
        if "symbols" in cell.metadata.get("tags", []):
            cell.source = symbols()
    parameters = notebook.cells[2]
    parameters.source = (written := parameters.source).replace(*GOOD)
    there = {"metadata": {"path": path.parent}}
    NotebookClient(notebook, timeout=1800, record_timing=False, coalesce_streams=True, resources=there).execute()
    parameters.source = written
    notebook.metadata.pop("widgets", None)
    notebook.metadata.update(GPU)
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index:02}"
        if "outputs" in cell:  # a widget cannot be shown without its kernel
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    fit(notebook)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    README.write_text(with_badges(README.read_text("utf-8")), "utf-8")
    for notebook_path in [Path(name).resolve() for name in sys.argv[1:]] or sorted(HERE.glob("*.ipynb")):
        print(notebook_path.name, flush=True)
        make(notebook_path)
