"""`python -m nst_helpers.demo`: run the quickstart notebook at 512 px."""

import sys
import time

import papermill

from .files.reading import PROJECT


def main() -> None:
    """Run notebooks/00_quickstart.ipynb and write the painting, its grid and the executed notebook to outputs/."""
    notebook, outputs = PROJECT / "notebooks" / "00_quickstart.ipynb", PROJECT / "outputs"
    if not notebook.exists():
        sys.exit(f"{notebook} is missing: run the demo in a clone of the project")
    outputs.mkdir(exist_ok=True)
    began = time.perf_counter()
    papermill.execute_notebook(
        notebook,
        outputs / notebook.name,
        parameters={"size": 512, "output": str(outputs / "quickstart.jpg")},
        cwd=PROJECT,
        progress_bar=False,
        stdout_file=sys.stdout,  # show what the notebook prints, and its progress bar, while it runs
        coalesce_streams=True,  # keep the progress bar out of the executed notebook
        extra_arguments=["--log-level=ERROR"],  # hide the kernel's log messages
    )
    print()
    for name in ("quickstart.jpg", "quickstart_grid.jpg", notebook.name):
        print(outputs / name)
    print(f"Everything took {time.perf_counter() - began:.0f} s. Next, `make lab` opens the notebooks of the course.")


if __name__ == "__main__":
    main()
