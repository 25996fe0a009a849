"""Whole notebooks with Colab's versions, opened alone beside the course's zip: Colab's way to it without GitHub."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import papermill
import pytest
from colab import JUPYTER, PACKAGES, PYTHON, colabs_python, environment
from conftest import ROOT, printed

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("colab")]
COLAB = """
from types import SimpleNamespace

files = SimpleNamespace(download=lambda path: print("download:", path))
"""


@pytest.fixture(scope="module")
def python(pytestconfig):
    """Colab's Python with all of Colab's versions: 5 GB with the CUDA build of PyTorch."""
    if (python := colabs_python()) is None:
        pytest.skip(f"Colab has Python {PYTHON}, which is not here: pyenv install {PYTHON}, for example")
    return environment(pytestconfig.cache.mkdir("colab") / "whole", python, *JUPYTER, *PACKAGES)


@pytest.fixture(scope="module")
def kernel(python, tmp_path_factory):
    """Name of a kernel that imports `google.colab` when it starts, and cannot reach GitHub."""
    folder = tmp_path_factory.mktemp("kernel")
    (folder / "google").mkdir()
    (folder / "google" / "colab.py").write_text(COLAB)
    (folder / "sitecustomize.py").write_text("import google.colab")
    environ = {"PYTHONPATH": str(folder), "GIT_ALLOW_PROTOCOL": "file", "OMP_NUM_THREADS": "2"}
    environ |= {"IPYTHONDIR": str(folder / "ipython"), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    command = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel = {"argv": command, "display_name": "Colab", "language": "python", "env": environ}
    (folder / "kernels" / "colab").mkdir(parents=True)
    (folder / "kernels" / "colab" / "kernel.json").write_text(json.dumps(kernel))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder))
        yield "colab"


@pytest.fixture(scope="module")
def content(clone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("content")
    shutil.make_archive(str(folder / "course-main"), "zip", clone.parent, clone.name)
    return folder


def test_pip_replaces_nothing(python, clone):
    """Colab has all that the toolkit needs, in versions that it takes: torch above all."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    command = [python, "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-", str(clone)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [package["metadata"]["name"] for package in json.loads(done.stdout)["install"]] == ["nst-helpers"]


@pytest.mark.parametrize(
    ("name", "parameters", "downloaded"),
    [
        ("00_quickstart", {"size": 128, "steps": 8}, ["hopper_night.jpg"]),
        ("05_training_loop", {}, ["05_rocket_night.png"]),
        ("06_playground", {"steps": 20}, []),
    ],
)
def test_a_notebook(content, kernel, name, parameters, downloaded):
    path = shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", content)
    done = papermill.execute_notebook(
        path,
        content / "out.ipynb",
        parameters=parameters,
        kernel_name=kernel,
        cwd=content,
        progress_bar=False,
        coalesce_streams=True,
    )
    assert printed(done, "stderr") == ""
    names = [Path(path).name for path in re.findall("download: (.+)", printed(done))]
    assert names == downloaded
