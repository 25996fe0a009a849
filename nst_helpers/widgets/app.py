"""The playground as a web app: `python -m nst_helpers.widgets.app`, which takes Voilà's options."""

import ipaddress
import os
import socket
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
from nbformat.v4 import new_code_cell, new_notebook
from tornado.httputil import HTTPServerRequest
from tornado.routing import Matcher, Rule
from tornado.web import ErrorHandler
from voila.app import Voila

from ..files.reading import PROJECT

CODE = "from nst_helpers.widgets import Playground\n\nplayground = Playground(app=True)\nplayground"
# The kernel of a closed page is shut down when it has been idle for 25 s. It becomes idle when the painting pauses,
# `playground.PAGE_TIMEOUT_S` after the page was closed.
SERVER = [
    "--Voila.ip=127.0.0.1",
    "--MappingKernelManager.cull_idle_timeout=25",
    "--MappingKernelManager.cull_interval=5",
]
MESSAGE_BYTES = 100 * 2**20  # maximum size of an upload; a larger one closes the page's connection without a message


class ForeignHost(Matcher):
    """Matcher for requests whose host is neither one of `names` nor, with `any_address`, an IP address."""

    def __init__(self, names: set[str], any_address: bool):
        self.names, self.any_address = names, any_address

    def match(self, request: HTTPServerRequest) -> dict | None:
        host = request.host_name.strip("[]")
        return None if host in self.names or (self.any_address and _is_address(host)) else {}


class App(Voila):
    """Voilà with a check of the Host header, and with large uploads.

    Without the check, any web page could reach the app by DNS rebinding: the page's host name would resolve to this
    machine, and the browser would see one origin. Voilà switches off Jupyter's own check, which does not cover static
    files. `--Voila.custom_display_url` allows another host, such as a proxy's.
    """

    def listen(self) -> None:
        everywhere = self.ip in ("", "0.0.0.0", "::")
        names = {"localhost", "127.0.0.1", "::1", self.ip, urlsplit(self.custom_display_url).hostname}
        names |= {socket.gethostname().lower()} if everywhere else set()
        refusal = Rule(ForeignHost(names, any_address=everywhere), ErrorHandler, {"status_code": 403})
        self.app.default_router.rules.insert(0, refusal)
        self.app.settings.setdefault("websocket_max_message_size", MESSAGE_BYTES)
        super().listen()


def _is_address(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def main(arguments: list[str]) -> None:
    """Serve the playground on this machine, with a separate kernel and painting for each visitor."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    with tempfile.TemporaryDirectory() as folder:
        notebook = Path(folder) / "Playground.ipynb"
        nbformat.write(new_notebook(cells=[new_code_cell(CODE)], metadata=kernel), notebook)
        App.launch_instance([str(notebook), *SERVER, *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
