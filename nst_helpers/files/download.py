"""HTTP downloads with a timeout, a size limit, and one-line error messages."""

from collections.abc import Iterator
from pathlib import Path

import requests

from .progress import progress_bar

TIMEOUT_S = 15  # seconds without data after which a request fails
_USER_AGENT = "nst-helpers (a neural style transfer course)"  # some museums' servers reject that of `requests`


def stream(url: str, limit: int | None = None) -> Iterator[bytes]:
    """Yield the body of a response in chunks.

    Args:
        url: begins with http:// or https://.
        limit: maximum number of bytes; None for no limit.

    Raises:
        ConnectionError: no answer, an HTTP error status, or an interrupted transfer.
        TimeoutError: no data for 15 s.
        ValueError: the body is longer than `limit`.
    """
    received = 0
    try:
        with requests.get(url, stream=True, timeout=TIMEOUT_S, headers={"User-Agent": _USER_AGENT}) as response:
            response.raise_for_status()
            for chunk in response.iter_content(1 << 16):
                received += len(chunk)
                if limit is not None and received > limit:
                    raise ValueError(f"{url}: expected at most {limit / 1e6:.0f} MB, got more")
                yield chunk
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else "unknown"
        raise ConnectionError(f"{url}: the server answered with status {status}") from error
    except requests.RequestException as error:
        if isinstance(error, requests.Timeout) or "timed out" in str(error):
            raise TimeoutError(f"{url}: no answer within {TIMEOUT_S} s") from error
        raise ConnectionError(f"{url}: cannot be reached ({type(error).__name__})") from error


def save_url(url: str, path: Path) -> None:
    """Download a file, with a progress bar. Raises the errors of `stream`, and OSError if it cannot be written."""
    with open(path, "wb") as file, progress_bar(desc=url.rpartition("/")[2], unit="B", unit_scale=True) as bar:
        for chunk in stream(url):
            file.write(chunk)
            bar.update(len(chunk))
