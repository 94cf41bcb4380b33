"""Images over http and https: limits of time and size, retries, and no way to a private address.

A row of a label file may name any URL, and a server may send on to any other. So every connection,
the first and those after a redirect, is looked at after it stands and before anything is sent: its
other end must be a public address. What is looked at is the address itself, not a name that may
mean something else a moment later. Only hosts that the user allows may be private.
"""

import contextlib
import dataclasses
import http
import http.client
import ipaddress
import random
import re
import socket
import ssl
import threading
import time
import urllib.parse
import zlib
from typing import Any, NamedTuple

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, LocationValueError

from pipeline.images import MAX_FILE_BYTES, ImageError

SCHEMES = ("http://", "https://")
USER_AGENT = "xception-at-scale"
MAX_REDIRECTS = 5
MAX_CONNECTIONS = 32  # kept open to one host

_CHUNK_BYTES = 256 * 1024
_MAX_WAIT_SECONDS = 30.0  # between two attempts, whatever the server asks for
_RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_NOT_FOUND_STATUSES = frozenset({404, 410})
_PART_STATUSES = frozenset({206, 416})  # the second also for the last bytes of an empty file
_TOO_LATE = "it took too long"
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# What a broken line or a damaged answer raises; ValueError: a header that is no number.
_LINE_ERRORS = (HTTPError, OSError, http.client.HTTPException, ValueError)


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long an image is waited for, in seconds."""

    connect: float = 10.0
    read: float = 30.0  # without a byte; and until all headers are there
    total: float = 120.0  # attempts, redirects and waits together
    num_attempts: int = 4
    first_wait: float = 0.5  # before the second attempt; doubled before each further one


class Answer(NamedTuple):
    """What a server sent."""

    status: int  # 200; where a range was asked for also 206 or 416
    start: int  # of the body in the file
    file_bytes: int  # length of the file
    body: bytes  # empty where the server does not say which part it is


class _RefusedAddressError(Exception):
    """A connection to an address that is not public; nothing that urllib3 would wrap."""


class _PassingError(Exception):
    """A failure that the next attempt may not meet."""

    def __init__(self, detail: str, wait_seconds: float = 0.0) -> None:
        super().__init__(detail)
        self.wait_seconds = wait_seconds  # that the server asks for


class WebClient:
    """Reads URLs; safe to use from several threads. Proxies of the environment are not used."""

    def __init__(
        self, allowed_hosts: tuple[str, ...] = (), patience: Patience | None = None
    ) -> None:
        """`allowed_hosts`: "host:port", which may have a private address."""
        self._patience = patience or Patience()
        self._manager = urllib3.PoolManager(num_pools=256, maxsize=MAX_CONNECTIONS)
        self._manager.pool_classes_by_scheme = {
            "http": _guarded_pool(HTTPConnectionPool, HTTPConnection, allowed_hosts),
            "https": _guarded_pool(HTTPSConnectionPool, HTTPSConnection, allowed_hosts),
        }

    def get(self, url: str, byte_range: str = "", stopped: threading.Event | None = None) -> Answer:
        """The answer to a GET; raises ImageError.

        `byte_range`: "0-99" or "-100", which a server may ignore: it then answers with the whole.
        `stopped`: once it is set, a failure is not waited for any more.
        """
        stopped = stopped or threading.Event()
        deadline = time.monotonic() + self._patience.total
        wait_seconds = self._patience.first_wait
        attempts_left = self._patience.num_attempts
        while True:
            attempts_left -= 1
            try:
                return self._follow(url, byte_range, deadline, stopped)
            except _PassingError as error:
                detail = without_password(f"{url}: {error}")
                asked_for = min(error.wait_seconds, _MAX_WAIT_SECONDS)
            pause = max(asked_for, wait_seconds * random.uniform(0.5, 1.5))
            is_late = time.monotonic() + pause > deadline
            if not attempts_left or is_late or stopped.wait(pause):
                raise ImageError("unreadable", detail)
            wait_seconds *= 2

    def part(
        self, url: str, start: int, length: int, stopped: threading.Event | None = None
    ) -> bytes:
        """So many bytes of a file, or fewer where it ends before; raises ImageError."""
        answer = self.get(url, f"{start}-{start + length - 1}", stopped)
        skipped = start - answer.start
        return answer.body[skipped : skipped + length] if skipped >= 0 else b""

    def tail(
        self, url: str, length: int, stopped: threading.Event | None = None
    ) -> tuple[int, bytes]:
        """The length of a file and its last bytes; raises ImageError."""
        answer = self.get(url, f"-{length}", stopped)
        body = answer.body
        is_tail = answer.start + len(body) == answer.file_bytes
        if body and is_tail and (answer.start == 0 or len(body) == length):
            return answer.file_bytes, body[-length:]
        if answer.status != http.HTTPStatus.OK:  # and what it says of its part is doubtful
            body = self.get(url, stopped=stopped).body
        return len(body), body[-length:]

    def _follow(
        self, url: str, byte_range: str, deadline: float, stopped: threading.Event
    ) -> Answer:
        """The answer at the end of the redirects; raises ImageError and _PassingError."""
        try:
            for _ in range(1 + MAX_REDIRECTS):
                with contextlib.closing(self._request(url, byte_range, deadline)) as response:
                    location = response.get_redirect_location()
                    if not location:
                        name = without_password(url)
                        return _read(response, name, bool(byte_range), deadline, stopped)
                url = urllib.parse.urljoin(url, location)
                if not url.lower().startswith(SCHEMES):
                    raise _RefusedAddressError(
                        f"it leads to {url}, which is neither http nor https"
                    )
        except _RefusedAddressError as error:
            raise ImageError("refused_address", without_password(f"{url}: {error}")) from error
        except (LocationValueError, UnicodeError) as error:
            raise ImageError("unreadable", without_password(f"{url}: no URL: {error}")) from error
        except _LINE_ERRORS as error:
            if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in error.args):
                raise ImageError("unreadable", without_password(f"{url}: {error}")) from error
            raise _PassingError(str(error)) from error
        raise ImageError("unreadable", without_password(f"{url}: over {MAX_REDIRECTS} redirects"))

    def _request(self, url: str, byte_range: str, deadline: float) -> urllib3.BaseHTTPResponse:
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            raise _PassingError(_TOO_LATE)
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        if byte_range:
            headers["Range"] = f"bytes={byte_range}"
        timeout = urllib3.Timeout(
            connect=min(self._patience.connect, seconds), read=min(self._patience.read, seconds)
        )
        return self._manager.request(
            "GET", url, headers=headers, timeout=timeout,
            retries=False, redirect=False, preload_content=False,
        )  # fmt: skip


def without_password(text: str) -> str:
    """The text without what stands before an @ in a URL."""
    return re.sub(r"//[^/?#\s]*@", "//", text)


def _read(
    response: urllib3.BaseHTTPResponse,
    url: str,
    is_part: bool,
    deadline: float,
    stopped: threading.Event,
) -> Answer:
    """The answer with its body; raises ImageError and _PassingError."""
    status = response.status
    failure = f"{status} {response.reason}"
    if status in _RETRIED_STATUSES:
        raise _PassingError(failure, _retry_after(response))
    if status == http.HTTPStatus.OK:
        body = _body(response, url, deadline, stopped)
        return Answer(status, 0, len(body), body)
    if is_part and status in _PART_STATUSES:
        content_range = response.headers.get("Content-Range", "")
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", content_range, re.ASCII)
        if not found or _encoding(response):
            return Answer(status, 0, 0, b"")
        body = _body(response, url, deadline, stopped)
        return Answer(status, int(found[1]), int(found[2]), body)
    reason = "not_found" if status in _NOT_FOUND_STATUSES else "unreadable"
    raise ImageError(reason, f"{url}: {failure}")


def _body(
    response: urllib3.BaseHTTPResponse, url: str, deadline: float, stopped: threading.Event
) -> bytes:
    promised = int(response.headers.get("Content-Length", 0))
    chunks: list[bytes] = []
    num_bytes = 0
    while num_bytes <= MAX_FILE_BYTES >= promised:
        if time.monotonic() > deadline or stopped.is_set():
            raise _PassingError(f"{_TOO_LATE}: {num_bytes} bytes had come")
        chunk = response.read1(_CHUNK_BYTES, decode_content=False)
        if not chunk:
            return _decoded(b"".join(chunks), _encoding(response), url)
        chunks.append(chunk)
        num_bytes += len(chunk)
    raise ImageError("too_many_bytes", f"{url}: more than {MAX_FILE_BYTES} bytes")


def _encoding(response: urllib3.BaseHTTPResponse) -> str:
    """What the body is wrapped in, although it was asked for as it is."""
    return response.headers.get("Content-Encoding", "").lower().replace("identity", "")


def _decoded(body: bytes, encoding: str, url: str) -> bytes:
    if not encoding:
        return body
    if encoding not in ("gzip", "x-gzip"):
        raise ImageError("unreadable", f"{url}: unknown Content-Encoding: {encoding}")
    decoder = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        decoded = decoder.decompress(body, MAX_FILE_BYTES + 1)
    except zlib.error as error:
        raise ImageError("unreadable", f"{url}: damaged gzip: {error}") from error
    if len(decoded) > MAX_FILE_BYTES:
        raise ImageError("too_many_bytes", f"{url}: more than {MAX_FILE_BYTES} bytes unpacked")
    if not decoder.eof:
        raise _PassingError("the gzip stream ends early")
    return decoded


def _retry_after(response: urllib3.BaseHTTPResponse) -> float:
    """Seconds that the server asks to wait; 0 where it does not say."""
    try:
        return urllib3.Retry().get_retry_after(response) or 0.0
    except HTTPError:
        return 0.0


def _guarded_pool(pool_class: Any, connection_class: Any, allowed_hosts: tuple[str, ...]) -> type:
    """A pool whose connections lead to public addresses and to allowed hosts alone."""
    allowed = frozenset(host.lower() for host in allowed_hosts)

    class GuardedConnection(connection_class):
        def _new_conn(self) -> socket.socket:
            """A connected socket; for https this is before TLS."""
            connected = super()._new_conn()
            try:
                self._check_address(connected.getpeername()[0])
            except BaseException:  # also where the other end has hung up already
                connected.close()
                raise
            return connected

        def _check_address(self, address: str) -> None:
            name = f"[{self.host}]" if ":" in self.host else self.host
            if f"{name}:{self.port}".lower() not in allowed and not is_public(address):
                raise _RefusedAddressError(
                    f"{name}:{self.port} is {address}, which is no public address; "
                    f"allow it with --allow_hosts={name}:{self.port}"
                )

        def getresponse(self) -> Any:
            """The response; headers that come in drips are cut off after the read timeout."""
            is_late = threading.Event()

            def cut_off() -> None:
                is_late.set()
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

            timer = threading.Timer(self.timeout, cut_off)
            timer.daemon = True
            timer.start()
            try:
                response = super().getresponse()
            finally:
                timer.cancel()
            if is_late.is_set():
                raise TimeoutError(_TOO_LATE)
            return response

    class GuardedPool(pool_class):
        ConnectionCls = GuardedConnection

    return GuardedPool


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the open internet: global, unicast, and no way around."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        teredo = found.teredo[1] if found.teredo else None
        within = found.ipv4_mapped or found.sixtofour or teredo
        if found in _NAT64:
            within = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if within:
            return is_public(str(within))
    return found.is_global and not found.is_multicast
