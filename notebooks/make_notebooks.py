"""Bring notebooks up to date: `python notebooks/make_notebooks.py` runs them all, or those that it is given.

The setup cell, the Colab badges (in the README too) and the outputs are written here and nowhere else.
"""

import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

REPOSITORY = "OWNER/REPO"  # on GitHub; set it when the project has a public address
HERE = Path(__file__).resolve().parent
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
    """Return a text with the addresses of its Colab badges pointing at REPOSITORY."""
    return re.sub(r"(colab\.research\.google\.com/github/)[^/]+/[^/]+/", rf"\g<1>{REPOSITORY}/", text)


def make(path: Path) -> None:
    """Write the setup cell and the badge, run the notebook in its own folder, and save it with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source = with_badges(notebook.cells[0].source)
    notebook.cells[1].source = SETUP
    there = {"metadata": {"path": path.parent}}
    NotebookClient(notebook, timeout=1800, record_timing=False, coalesce_streams=True, resources=there).execute()
    notebook.metadata.pop("widgets", None)
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index:02}"
    nbformat.write(notebook, path)


if __name__ == "__main__":
    readme = HERE.parent / "README.md"
    readme.write_text(with_badges(readme.read_text("utf-8")), "utf-8")
    for notebook_path in [Path(name).resolve() for name in sys.argv[1:]] or sorted(HERE.glob("*.ipynb")):
        print(notebook_path.name, flush=True)
        make(notebook_path)
