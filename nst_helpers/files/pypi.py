"""Download of a file from PyPI: with the user's pip or uv, or else from the index that they have configured."""

import html
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urljoin

from .download import TIMEOUT_S, save_url, stream

_INDEX_VARIABLES = ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL")


def fetch_from_pypi(requirement: str, name: str, sha256: str, path: Path) -> None:
    """Download file `name` of a package and write it to `path`.

    Args:
        requirement: such as "package==1.0".
        name: of the file, a wheel or a source package.
        sha256: of the file; pip checks it. The caller must check it too, since other ways do not.
        path: the file to write.

    The user's pip downloads it, with their index, proxy and certificates. Where the environment has no pip, as those
    made by uv, uv runs one. Without both, or if uv fails, the file is read from the package index that PIP_INDEX_URL,
    UV_DEFAULT_INDEX or UV_INDEX_URL names. Nothing is installed.

    Raises ConnectionError or TimeoutError with the reason.
    """
    if importlib.util.find_spec("pip") is not None:
        _fetch_with([sys.executable, "-m", "pip"], requirement, name, sha256, path)
        return
    if shutil.which("uv"):
        try:
            _fetch_with(["uv", "tool", "run", "pip"], requirement, name, sha256, path)
            return
        except ConnectionError:
            pass  # for example, pip itself is not available offline
    _fetch_from_index(requirement, name, path)


def _fetch_with(pip: list[str], requirement: str, name: str, sha256: str, path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(f"{requirement} --hash=sha256:{sha256}")
        options = ["--no-deps", "--require-hashes", "--disable-pip-version-check"]
        options += ["--timeout", str(TIMEOUT_S), "--retries", "1"]
        command = [*pip, "download", *options, "-d", folder, "-r", str(requirements)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
            raise ConnectionError((errors or ["pip failed"])[-1].removeprefix("ERROR: "))
        shutil.copyfile(Path(folder) / name, path)


def _fetch_from_index(requirement: str, name: str, path: Path) -> None:
    index = next((os.environ[variable] for variable in _INDEX_VARIABLES if os.environ.get(variable)), None)
    if index is None:
        raise ConnectionError("there is no working pip or uv: install one of them, or set PIP_INDEX_URL")
    page = f"{index.rstrip('/')}/{requirement.partition('==')[0]}/"
    links = re.findall(r'<a\s[^>]*?href="([^"]+)"[^>]*>\s*([^<]*?)\s*</a>', b"".join(stream(page)).decode())
    urls = [urljoin(page, html.unescape(link)).partition("#")[0] for link, text in links if text == name]
    if not urls:
        raise ConnectionError(f"{page}: has no {name}")
    save_url(urls[0], path)
