"""Bytes from an http(s) address: never without end, and every failure in one line."""

from collections.abc import Iterator

import requests

TIMEOUT_S = 15  # seconds without a byte after which a request is given up
_USER_AGENT = "nst-helpers (a neural style transfer course)"  # some museums' servers refuse the library's own


def stream(url: str, limit: int | None = None) -> Iterator[bytes]:
    """Yield the body of `url` in chunks.

    Args:
        url: an http:// or https:// address.
        limit: the most bytes to take; None for no limit.

    Raises:
        ConnectionError: no answer, an HTTP status other than success, or a broken transfer.
        TimeoutError: 15 s passed without a byte.
        ValueError: the body is longer than `limit`.
    """
    received = 0
    try:
        with requests.get(url, stream=True, timeout=TIMEOUT_S, headers={"User-Agent": _USER_AGENT}) as response:
            response.raise_for_status()
            for chunk in response.iter_content(1 << 16):
                received += len(chunk)
                if limit is not None and received > limit:
                    raise ValueError(f"{url}: sends over {limit / 1e6:.0f} MB")
                yield chunk
    except requests.HTTPError as error:
        raise ConnectionError(f"{url}: the server answers {error.response.status_code}") from error
    except requests.RequestException as error:
        if isinstance(error, requests.Timeout) or "timed out" in str(error):
            raise TimeoutError(f"{url}: no answer within {TIMEOUT_S} s") from error
        raise ConnectionError(f"{url}: cannot be reached ({type(error).__name__})") from error
