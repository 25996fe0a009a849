"""What the tests in real pages share: servers of our own, and patience."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import ROOT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
IN_PAGES = [
    pytest.mark.browser,
    pytest.mark.long,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]
SCREENSHOTS = ROOT / "outputs" / "browser"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@contextlib.contextmanager
def serving(folder, *command, python=sys.executable):
    """Run a Jupyter server of our own, and yield its address and process id."""
    port = free_port()
    own = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    own |= {f"JUPYTERLAB_{name}_DIR": str(folder / f"lab-{name.lower()}") for name in ("SETTINGS", "WORKSPACES")}
    for name in own.values():
        os.makedirs(name, exist_ok=True)
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [python, "-m", *command, f"--port={port}"], cwd=ROOT, env=os.environ | own, stdout=log, stderr=log
        )
    try:
        within(60, lambda: socket.create_connection(("127.0.0.1", port), timeout=5), "a server").close()
        yield f"http://127.0.0.1:{port}", server.pid
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def within(seconds, condition, what=""):
    """Return the condition's value as soon as it holds; on a busy machine three times as many seconds are granted."""
    end = time.monotonic() + 3 * seconds
    while True:
        with contextlib.suppress(OSError):
            if value := condition():
                return value
        assert time.monotonic() < end, f"not within {seconds} s: {what or condition}"
        time.sleep(0.1)
