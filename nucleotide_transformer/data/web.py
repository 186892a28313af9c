"""Requests over HTTP: one way to ask, and to say what went wrong."""

import contextlib
import re
from typing import Any
from urllib.parse import urlsplit

from nucleotide_transformer.errors import RunFailedError, import_extra

WAIT_SECONDS = 60.0
"""Without a byte for so long, a connection is given up."""
RETRY_STATUSES = (408, 425, 429, 500, 502, 503, 504)
"""Answers that may be another one a little later."""
_AGENT = "nucleotide-transformer-jax"
_SERVED_BY_HTTPS = ("ftp.ncbi.nlm.nih.gov", "ftp.ncbi.nih.gov", "ftp.ebi.ac.uk", "ftp.ensembl.org")
"""Hosts that serve by HTTPS what they serve by FTP."""
_ADDRESS = re.compile(r"(https?|ftp|s3)://[^/\s]+/\S+")


def is_address(text: str) -> bool:
    """Whether a text is an address that can be downloaded from: http, https, ftp or s3."""
    with contextlib.suppress(ValueError):  # of a bad port, or brackets without an IPv6 address
        return urlsplit(text).port != 0 and _ADDRESS.fullmatch(text) is not None
    return False


def find_server(address: str) -> str:
    """The address as it is asked for: S3 by its HTTPS interface, and FTP where HTTPS does it."""
    parts = urlsplit(address)
    if parts.scheme == "s3":
        return f"https://{parts.netloc}.s3.amazonaws.com{parts.path}"
    if parts.scheme == "ftp" and parts.netloc in _SERVED_BY_HTTPS:
        return f"https://{parts.netloc}{parts.path}"
    return address


def make_session(num_retries: int = 0) -> Any:
    """A session that keeps connections open, and asks again as often as it may.

    Raises:
        InputError: if `requests` is not installed.
    """
    requests = import_extra("requests", "download", "to download")
    retry = import_extra("urllib3.util", "download", "to download").Retry(
        total=num_retries,
        backoff_factor=1.0,
        status_forcelist=RETRY_STATUSES,
        respect_retry_after_header=True,
        raise_on_status=False,
    )
    session = requests.Session()
    session.headers.update({"User-Agent": _AGENT, "Accept-Encoding": "identity"})
    for scheme in ("http://", "https://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retry, pool_maxsize=32))
    return session


def get(session: Any, address: str, **options: Any) -> Any:
    """What a server answers to GET.

    Raises:
        RunFailedError: one line with the address, if it answers anything but 200, or not at all.
    """
    import requests

    try:
        answer = session.get(find_server(address), timeout=WAIT_SECONDS, **options)
    except requests.RequestException as error:
        raise RunFailedError(f"{address}: {describe_failure(error)}") from None
    if answer.status_code != 200:
        raise RunFailedError(f"{address}: {answer.status_code} {answer.reason}")
    return answer


def describe_failure(error: Exception) -> str:
    """What went wrong with a connection, in a few words."""
    import requests
    from urllib3 import exceptions

    if isinstance(error, requests.Timeout | exceptions.TimeoutError):
        return "no answer in time"
    if isinstance(error, exceptions.ProtocolError | requests.exceptions.ChunkedEncodingError):
        return "the connection ended before the file did"
    if isinstance(error, requests.ConnectionError):
        inner = re.search(r"(NameResolutionError|Connection refused|timed out)", str(error))
        reasons = {"NameResolutionError": "no such host", "timed out": "no answer in time"}
        return reasons.get(inner[1], inner[1].lower()) if inner else "the connection failed"
    return f"{type(error).__name__}: {error}"
