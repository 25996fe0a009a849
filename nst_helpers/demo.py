"""`python -m nst_helpers.demo`: the quickstart notebook from end to end, with the best network that can be had."""

import sys
import time

import papermill

from .files.reading import PROJECT


def main() -> None:
    """Run notebooks/00_quickstart.ipynb and leave the painting, its grid and the executed notebook in outputs/."""
    notebook, outputs = PROJECT / "notebooks" / "00_quickstart.ipynb", PROJECT / "outputs"
    if not notebook.exists():
        sys.exit(f"{notebook} is missing: the demo runs in a clone of the project")
    outputs.mkdir(exist_ok=True)
    began = time.perf_counter()
    papermill.execute_notebook(
        notebook,
        outputs / notebook.name,
        parameters={"network": "auto", "size": 512, "output": str(outputs / "quickstart.jpg")},
        cwd=PROJECT,
        progress_bar=False,
        stdout_file=sys.stdout,  # what the notebook prints, its progress bar too, shows here as it comes
        coalesce_streams=True,  # and the bar leaves no trace in the executed notebook
        extra_arguments=["--log-level=ERROR"],  # the kernel's own remarks would only puzzle
    )
    print()
    for name in ("quickstart.jpg", "quickstart_grid.jpg", notebook.name):
        print(outputs / name)
    print(f"Everything took {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
