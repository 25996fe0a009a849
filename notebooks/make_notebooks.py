"""Bring notebooks up to date: `python notebooks/make_notebooks.py` runs them all, or those that it is given.

The setup cell, the Colab badges (in the README too), the README's table of symbols in cells tagged `symbols`, and the
outputs are written here and nowhere else. With `--address OWNER/REPO`, only the project's address on GitHub is changed,
in the README, in all notebooks and in this file.
"""

import argparse
import base64
import io
import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

REPOSITORY = "OWNER/REPO"  # on GitHub; `make address` changes it
WIDGET = "application/vnd.jupyter.widget-view+json"
MOST = 950_000  # characters in a notebook
GPU = {"accelerator": "GPU", "colab": {"gpuType": "T4"}}  # without these, Colab opens a notebook on a CPU
GOOD = 'quality = "auto"', 'quality = "good"'  # outputs are made as on a GPU, on whatever machine
HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
SETUP = f"""\
import sys
from pathlib import Path

from IPython.core.error import UsageError

if "google.colab" in sys.modules:  # get the course: from a zip that you uploaded, or from GitHub
    !exec 2> /dev/null; unzip -quo "*.zip" -d zip; git clone -q --depth 1 https://github.com/{REPOSITORY}
places = [Path(), *Path.cwd().parents, *(p for q in ("zip/*", "drive/*/*", "drive/*/*/*", "*") for p in Path().glob(q))]
sys.path.insert(0, str(ROOT := Path.cwd() / next((p for p in places if (p / "nst_helpers/__init__.py").exists()), "")))
if not any(finder.find_spec("nst_helpers", None) for finder in sys.meta_path):
    raise UsageError("nst_helpers is missing: put the course's folder (in Colab: its zip) beside this notebook")
import nst_helpers as nst"""


def with_address(text: str, repository: str = REPOSITORY) -> str:
    """Return a text whose Colab badges, `git clone` commands and REPOSITORY have the address of a repository."""
    places = (
        r'(colab\.research\.google\.com/github/|git clone [^"\n]*https://github\.com/|^REPOSITORY = ")[\w.-]+/[\w.-]+'
    )
    return re.sub(places, rf"\g<1>{repository}", text, flags=re.M)


def write_address(repository: str, folder: Path) -> None:
    """Write the address of a repository on GitHub, "owner/name", into all files of a project that contain it."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise SystemExit(
            f"expected OWNER and REPO of an address on GitHub (make address OWNER=… REPO=…), got {repository}"
        )
    notebooks = folder / "notebooks"
    for path in (folder / "README.md", notebooks / "make_notebooks.py", *sorted(notebooks.glob("*.ipynb"))):
        path.write_text(with_address(path.read_text("utf-8"), repository), "utf-8")


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
    notebook.cells[0].source = with_address(notebook.cells[0].source)
    notebook.cells[1].source = SETUP
    for cell in notebook.cells:
        if "symbols" in cell.metadata.get("tags", []):
            cell.source = symbols()
    parameters = notebook.cells[2]
    parameters.source = (written := parameters.source).replace(*GOOD)
    NotebookClient(
        notebook,
        timeout=1800,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": path.parent}},
        extra_arguments=["--InlineBackend.figure_formats={'jpeg'}"],  # smaller than PNG
    ).execute()
    parameters.source = written
    notebook.metadata.pop("widgets", None)
    notebook.metadata.update(GPU)
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index:02}"
        if "outputs" in cell:  # a widget cannot be shown without its kernel
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    fit(notebook)
    nbformat.write(notebook, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all")
    parser.add_argument("--address", metavar="OWNER/REPO", help="change the address on GitHub, and run nothing")
    options = parser.parse_args()
    if options.address is not None:
        return write_address(options.address, HERE.parent)
    README.write_text(with_address(README.read_text("utf-8")), "utf-8")
    for path in options.notebooks or sorted(HERE.glob("*.ipynb")):
        print(path.name, flush=True)
        make(path.resolve())


if __name__ == "__main__":
    main()
