"""Colab's versions of August 2026, and environments with them, kept in pytest's cache."""

import os
import subprocess

PYTHON = "3.13"
JUPYTER = [
    *("ipykernel==6.17.1", "ipywidgets==7.7.1", "ipython==7.34.0", "notebook==6.5.7", "jupyter_client==7.4.9"),
    *("pyzmq==26.2.1", "tornado==6.5.1", "setuptools<81"),
]
PACKAGES = [
    *("torch==2.11.*", "numpy==2.1.3", "numba==0.61.2", "llvmlite==0.44.0", "pillow==11.3.0", "matplotlib==3.10.0"),
    *("imageio-ffmpeg==0.6.0", "requests==2.32.4", "safetensors==0.7.0", "tqdm==4.67.1", "filelock"),
]


def environment(folder, python, *requirements):
    """Return the Python of an environment with packages of its own, made unless it is there."""
    made = folder / "made"
    if not made.exists() or made.read_text() != " ".join(requirements):
        subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "-q", *requirements], check=True)
        made.write_text(" ".join(requirements))
    return str(folder / "bin" / "python")


def colabs_python():
    """Return Python 3.13, or None. (pyenv has a command `python3.13` that works if it is told the version.)"""
    command = [f"python{PYTHON}", "-c", "import sys; print(sys.executable)"]
    try:
        done = subprocess.run(command, env=os.environ | {"PYENV_VERSION": PYTHON}, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
