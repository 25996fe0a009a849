"""The notebooks' setup cell: where it finds the toolkit, and what it says if it is nowhere."""

import os
import re
import shutil
import subprocess
import sys
import zipfile

import make_notebooks
import nbformat
import pytest
from conftest import ROOT, code_cells

RUN = """
import os, sys, types
from IPython.core.interactiveshell import InteractiveShell

code, colab = sys.argv[1:]
if colab == "True":
    sys.modules["google.colab"] = types.ModuleType("google.colab")
shell = InteractiveShell.instance()
if shell.run_cell(code).success:
    file, root = shell.user_ns["nst"].__file__, shell.user_ns["ROOT"]
    print("found", os.path.dirname(os.path.dirname(file)), "ROOT", root, "in", os.getcwd())
"""
in_colab = pytest.mark.skipif(os.name != "posix" or not shutil.which("unzip"), reason="Colab is Linux with unzip")


def course(folder):
    """Make what stands for the toolkit here, and return the course's folder."""
    (folder / "nst_helpers").mkdir(parents=True)
    (folder / "nst_helpers" / "__init__.py").touch()
    return folder


def zipped(file, *members):
    with zipfile.ZipFile(file, "w") as archive:
        for member in members:
            archive.writestr(member, "")


@pytest.fixture
def here(tmp_path):
    """The folder of a notebook that was opened alone."""
    folder = tmp_path / "content"
    folder.mkdir()
    return folder


@pytest.fixture
def setup(tmp_path):
    """Runs the setup cell in a folder, and returns what it prints; `git` prints "fatal" or makes a clone."""

    def run(folder, colab=False, on_github=False, installed=""):
        programs = tmp_path / "programs"
        programs.mkdir(exist_ok=True)
        git = "mkdir -p REPO/nst_helpers && touch REPO/nst_helpers/__init__.py" if on_github else "false"
        (programs / "git").write_text(f"#!/bin/sh\necho $@ > git.log\n{git} || {{ echo fatal: >&2; exit 128; }}\n")
        (programs / "git").chmod(0o755)
        own = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(installed)}
        done = subprocess.run(
            [sys.executable, "-c", RUN, make_notebooks.SETUP, str(colab)],
            cwd=folder,
            env=os.environ | own | {"IPYTHONDIR": str(tmp_path / "ipython")},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout + done.stderr

    return run


def found(place, root, folder):
    return f"found {place} ROOT {root} in {folder}\n"


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_nothing_is_installed(path):
    """In Colab, that could replace torch."""
    code = "\n".join(cell.source for cell in code_cells(nbformat.read(path, as_version=4)))
    assert not re.search(r"\b(pip|conda|uv) install\b", code)


class TestAnywhere:
    def test_it_is_here_or_in_a_folder_around(self, setup, tmp_path):
        root = course(tmp_path / "course")
        for name in ("", "notebooks", "my own/of today"):
            folder = root / name
            folder.mkdir(parents=True, exist_ok=True)
            assert setup(folder) == found(root, root, folder)

    def test_it_is_in_a_folder_beside_the_notebook(self, setup, here):
        root = course(here / "course")
        assert setup(here) == found(root, root, here)

    def test_it_is_installed(self, setup, here, tmp_path):
        """Then files are written beside the notebook, not among the packages."""
        packages = course(tmp_path / "packages")
        assert setup(here, installed=packages) == found(packages, here, here)

    def test_the_repository_comes_before_an_installed_package(self, setup, tmp_path):
        packages, root = course(tmp_path / "packages"), course(tmp_path / "course")
        (root / "notebooks").mkdir()
        assert setup(root / "notebooks", installed=packages) == found(root, root, root / "notebooks")

    def test_alone(self, setup, here):
        (line,) = setup(here).splitlines()
        assert line.startswith("UsageError: nst_helpers is missing: put the course's folder")
        assert not (here / "git.log").exists()  # outside Colab, nothing is fetched


@in_colab
class TestColab:
    def test_a_clone(self, setup, here):
        assert setup(here, colab=True, on_github=True) == found(here / "REPO", here / "REPO", here)
        address = f"https://github.com/{make_notebooks.REPOSITORY}"
        assert (here / "git.log").read_text() == f"clone -q --depth 1 {address}\n"
        assert setup(here, colab=True) == found(here / "REPO", here / "REPO", here)  # when it is run again

    @pytest.mark.parametrize("name", ["drive/MyDrive/course", "drive/MyDrive/Colab Notebooks/course"])
    def test_in_google_drive(self, setup, here, name):
        """It is used even if a clone is made: it may have been changed."""
        root = course(here / name)
        assert setup(here, colab=True) == found(root, root, here)
        assert setup(here, colab=True, on_github=True) == found(root, root, here)

    @pytest.mark.parametrize("top", ["REPO-main/", ""])
    def test_an_uploaded_zip(self, setup, here, top):
        zipped(here / "REPO main (1).zip", f"{top}nst_helpers/__init__.py", f"{top}data/content/hopper.jpg")
        zipped(here / "pictures.zip", "pictures/one.jpg", "__MACOSX/nst_helpers/._init__.py")
        (here / "broken.zip").write_text("not a zip")
        root = here / "zip" / top
        assert setup(here, colab=True) == found(root, root, here)
        assert (root / "data/content/hopper.jpg").exists()
        assert (here / "REPO main (1).zip").exists()

    def test_a_newer_zip_replaces_the_older(self, setup, here):
        zipped(here / "course.zip", "REPO-main/nst_helpers/__init__.py")
        setup(here, colab=True)
        with zipfile.ZipFile(here / "course.zip", "w") as archive:
            later = zipfile.ZipInfo("REPO-main/nst_helpers/__init__.py", (2099, 1, 1, 0, 0, 0))
            archive.writestr(later, "print('new')")
        assert setup(here, colab=True).startswith("new\n")

    def test_installed(self, setup, here, tmp_path):
        packages = course(tmp_path / "packages")
        assert setup(here, colab=True, installed=packages) == found(packages, here, here)

    def test_alone(self, setup, here):
        """One line, without git's."""
        (line,) = setup(here, colab=True).splitlines()
        assert line.startswith("UsageError: nst_helpers is missing: put the course's folder (in Colab: its zip)")
        assert (here / "git.log").exists()
