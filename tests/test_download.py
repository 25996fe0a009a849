import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

import nst_helpers as nst
from nst_helpers.files import download, reading


@pytest.fixture
def server(tmp_path):
    """A web server on this machine; returns its address. What each path sends stands in the handler."""
    picture = tmp_path / "picture.png"
    Image.new("RGB", (30, 20), "teal").save(picture)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/missing":
                return self.send_error(404)
            if self.path == "/silent":
                time.sleep(2)
                return None
            self.send_response(200)
            if self.path == "/cut":
                self.send_header("Content-Length", "1000000")
            self.end_headers()
            body = {"/page": b"<html>not a picture</html>", "/endless": b"x" * 2_000_000}
            self.wfile.write(body.get(self.path, picture.read_bytes()))
            if self.path == "/stalls":
                time.sleep(2)

        def log_message(self, *args):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def test_a_picture_from_an_address(server):
    assert nst.load_image(f"{server}/picture.png", size=None).shape == (1, 3, 20, 30)


@pytest.mark.parametrize(
    ("path", "error", "reason"),
    [
        ("/missing", ConnectionError, "answered with status 404"),
        ("/page", ValueError, "expected an image"),
        ("/cut", ConnectionError, "cannot be reached"),
        ("/endless", ValueError, "expected at most 1 MB"),
        ("/silent", TimeoutError, "no answer within"),
        ("/stalls", TimeoutError, "no answer within"),
    ],
)
def test_refusals_name_address_and_reason(server, monkeypatch, path, error, reason):
    monkeypatch.setattr(download, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(reading, "MAX_BYTES", 1_000_000)
    with pytest.raises(error) as caught:
        nst.load_image(server + path)
    assert server + path in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nobody_listens():
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:9/a\.png: cannot be reached"):
        nst.load_image("http://127.0.0.1:9/a.png")


def test_the_limits_that_users_are_told():
    assert download.TIMEOUT_S == 15
    assert reading.MAX_BYTES == 50_000_000
