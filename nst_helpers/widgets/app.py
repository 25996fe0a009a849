"""`python -m nst_helpers.widgets.app`: the playground as a web app, without code; it takes Voilà's options."""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook
from voila.app import main as voila

from ..images import PROJECT

CODE = "from nst_helpers.widgets import Playground\n\nplayground = Playground(app=True)\nplayground"
SERVER = [
    "--Voila.ip=127.0.0.1",
    "--MappingKernelManager.cull_idle_timeout=25",  # seconds that a visitor's kernel outlives its page, at rest;
    "--MappingKernelManager.cull_interval=5",  # `widgets.SILENCE` after the page has gone, the playground is
]


def main(arguments: list[str]) -> None:
    """Serve the playground on this machine; each visitor has a kernel, and with it a painting, of their own."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    with tempfile.TemporaryDirectory() as folder:
        notebook = Path(folder) / "Playground.ipynb"
        nbformat.write(new_notebook(cells=[new_code_cell(CODE)], metadata=kernel), notebook)
        voila([str(notebook), *SERVER, *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
