"""Against real servers on this machine, which the fetchers are allowed to reach."""

import contextlib
import datetime
import gzip
import http.server
import os
import socket
import ssl
import threading
import time

import pytest
import urllib3.util.connection

from pipeline import images, web
from pipeline.fetch import Fetcher, content_key, reference
from pipeline.images import ImageError
from pipeline.web import Patience

IMAGE = bytes(range(256)) * 100
HASTE = Patience(connect=1, read=0.5, total=3, num_attempts=3, first_wait=0.02)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the test says: `answers` maps a path to a function of the handler."""

    protocol_version = "HTTP/1.1"
    timeout = 5

    def do_GET(self):
        self.server.requests.append((self.path, dict(self.headers)))
        self.server.peers.add(self.client_address)
        with contextlib.suppress(ConnectionError):
            self.server.answers.get(self.path, lambda handler: handler.reply(404))(self)

    def reply(self, status, body=b"", length=None, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.peers, self.answers = [], set(), {}
        self.host = f"127.0.0.1:{self.server_port}"
        self.url = f"http://{self.host}"


@contextlib.contextmanager
def running():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server():
    with running() as server:
        server.answers["/1.jpg"] = lambda handler: handler.reply(200, IMAGE)
        yield server


@pytest.fixture
def fetcher(server):
    return Fetcher(server.url, (server.host,), HASTE)


def error_of(fetcher, uri, *arguments):
    with pytest.raises(ImageError) as caught:
        fetcher.fetch(uri, *arguments)
    assert caught.value.reason in images.REASONS
    return caught.value


def in_turn(*answers):
    """The first answer to the first request, and so on; the last to all that follow."""
    remaining = list(answers)
    return lambda handler: (remaining.pop(0) if len(remaining) > 1 else remaining[0])(handler)


def status(code, **headers):
    return lambda handler: handler.reply(code, **headers)


def whole(handler):
    handler.reply(200, IMAGE)


def test_an_image_comes_over_one_connection_under_our_name(server, fetcher):
    assert [fetcher.fetch("1.jpg") for _ in range(5)] == [IMAGE] * 5
    assert fetcher.fetch(f"{server.url}/1.jpg") == IMAGE
    assert len(server.peers) == 1
    assert server.requests[0][1]["User-Agent"] == "xception-at-scale"


def test_what_a_server_does_not_have_is_not_found(server, fetcher):
    server.answers["/gone"] = status(410)
    assert error_of(fetcher, "absent.jpg").reason == "not_found"
    assert error_of(fetcher, "gone").reason == "not_found"
    assert len(server.requests) == 2


@pytest.mark.parametrize("code", [204, 206, 304, 400, 401, 403, 451, 501])
def test_other_refusals_are_final_and_told_by_their_status(server, fetcher, code):
    server.answers["/2.jpg"] = status(code)
    error = error_of(fetcher, "2.jpg")
    assert error.reason == "unreadable"
    assert str(code) in error.detail
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", [408, 425, 429, 500, 502, 503, 504])
def test_passing_failures_are_tried_again(server, fetcher, code):
    server.answers["/2.jpg"] = in_turn(status(code), status(code), whole)
    assert fetcher.fetch("2.jpg") == IMAGE
    server.answers["/3.jpg"] = status(code)
    assert str(code) in error_of(fetcher, "3.jpg").detail
    assert len(server.requests) == 6


def test_a_server_that_asks_for_time_is_given_it_within_bounds(server, fetcher):
    server.answers["/2.jpg"] = in_turn(status(503, Retry_After="1"), whole)
    began = time.monotonic()
    assert fetcher.fetch("2.jpg") == IMAGE
    assert time.monotonic() - began >= 1
    server.answers["/3.jpg"] = in_turn(status(429, Retry_After="86400"), whole)
    assert error_of(fetcher, "3.jpg").reason == "unreadable"
    assert time.monotonic() - began < 10


def test_a_body_that_ends_early_is_tried_again_and_never_taken(server, fetcher):
    def cut(handler):
        handler.reply(200, IMAGE[:1000], length=len(IMAGE))
        handler.close_connection = True

    server.answers["/2.jpg"] = in_turn(cut, whole)
    assert fetcher.fetch("2.jpg") == IMAGE
    server.answers["/3.jpg"] = cut
    assert error_of(fetcher, "3.jpg").reason == "unreadable"


def test_a_line_that_breaks_is_tried_again(server, fetcher):
    def hang_up(handler):
        handler.connection.shutdown(socket.SHUT_RDWR)
        handler.close_connection = True

    server.answers["/2.jpg"] = in_turn(hang_up, whole)
    assert fetcher.fetch("2.jpg") == IMAGE


def test_a_connection_that_is_reset_at_once_is_closed_here_too(server, fetcher, monkeypatch):
    connect = urllib3.util.connection.create_connection
    connections = []

    def reset(*arguments, **options):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            connections.append(connect(listener.getsockname(), *arguments[1:], **options))
        return connections[-1]  # the listener ended before it accepted

    monkeypatch.setattr(urllib3.util.connection, "create_connection", reset)
    assert error_of(fetcher, "1.jpg").reason == "unreadable"
    assert len(connections) == HASTE.num_attempts
    assert all(connection.fileno() == -1 for connection in connections)


def test_chunks_are_put_together(server, fetcher):
    def chunked(handler):
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for start in range(0, len(IMAGE), 1000):
            piece = IMAGE[start : start + 1000]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        handler.wfile.write(b"0\r\n\r\n")

    server.answers["/2.jpg"] = chunked
    assert [fetcher.fetch("2.jpg") for _ in range(3)] == [IMAGE] * 3
    assert len(server.peers) == 1


def stall(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(IMAGE)))
    handler.end_headers()
    handler.wfile.write(IMAGE[:10])
    time.sleep(1)


def drip_body(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(IMAGE)))
    handler.end_headers()
    for byte in IMAGE:
        handler.wfile.write(bytes([byte]))
        time.sleep(0.05)


def drip_headers(handler):
    for byte in b"HTTP/1.1 200 OK\r\n" + b"X-Slow: loris\r\n" * 100:
        handler.wfile.write(bytes([byte]))
        time.sleep(0.05)


@pytest.mark.parametrize("answer", [stall, drip_body, drip_headers])
def test_a_server_that_keeps_us_waiting_is_given_up(server, fetcher, answer):
    server.answers["/2.jpg"] = answer
    began = time.monotonic()
    assert error_of(fetcher, "2.jpg").reason == "unreadable"
    assert time.monotonic() - began < HASTE.total + 1


def test_a_stall_is_followed_by_another_attempt(server, fetcher):
    server.answers["/2.jpg"] = in_turn(stall, whole)
    assert fetcher.fetch("2.jpg") == IMAGE


def test_a_server_that_is_not_there_is_unreadable(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{unused.getsockname()[1]}"
        assert error_of(Fetcher("", (host,), HASTE), f"http://{host}/1.jpg").reason == "unreadable"


@pytest.mark.parametrize(
    "url", ["http://", "http://[::1", "http://a:99999/", "http://a..b/x.jpg", "http:///x.jpg"]
)
def test_what_is_no_url_is_unreadable(url):
    assert error_of(Fetcher("", (), HASTE), url).reason == "unreadable"


def test_redirects_are_followed_to_an_end(server, fetcher):
    for step in range(1, 10):
        server.answers[f"/{step}"] = status(302, Location=f"/{step - 1}")
    server.answers["/0"] = whole
    assert fetcher.fetch("5") == IMAGE
    assert error_of(fetcher, "6").reason == "unreadable"


@pytest.mark.parametrize(
    "target", ["file:///etc/hostname", "ftp://example.com/1.jpg", "gopher://a"]
)
def test_a_redirect_leads_to_http_alone(server, fetcher, target):
    server.answers["/2.jpg"] = status(302, Location=target)
    assert error_of(fetcher, "2.jpg").reason == "refused_address"


def test_private_addresses_are_refused_before_anything_is_sent(server):
    error = error_of(Fetcher("", (), HASTE), f"{server.url}/1.jpg")
    assert error.reason == "refused_address"
    assert "127.0.0.1" in error.detail
    port = server.server_port
    for name in (f"localhost:{port}", f"127.1:{port}", f"0x7f000001:{port}", f"0.0.0.0:{port}"):
        assert error_of(Fetcher("", (), HASTE), f"http://{name}/1.jpg").reason == "refused_address"
        # What is allowed is the host and port as they are written, not all of their names.
        allowed = Fetcher("", (server.host, f"127.0.0.1:{port + 1}"), HASTE)
        assert error_of(allowed, f"http://{name}/1.jpg").reason == "refused_address"
    assert not server.requests


def test_a_redirect_to_a_private_address_is_refused(server, fetcher):
    with running() as secret:
        secret.answers["/key"] = whole
        server.answers["/2.jpg"] = status(301, Location=f"{secret.url}/key")
        error = error_of(fetcher, "2.jpg")
        assert error.reason == "refused_address"
        assert not secret.requests
        both = Fetcher(server.url, (server.host, secret.host), HASTE)
        assert both.fetch("2.jpg") == IMAGE


def test_a_name_that_comes_to_mean_a_private_address_is_refused(server, monkeypatch):
    asked = []

    def rebound(host, port, *arguments, **options):
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebound)
    url = f"http://images.example.com:{server.server_port}/1.jpg"
    assert error_of(Fetcher("", (), HASTE), url).reason == "refused_address"
    assert asked
    assert not server.requests


@pytest.mark.parametrize(
    ("address", "is_public"),
    [
        ("8.8.8.8", True), ("2606:4700::1111", True), ("::ffff:8.8.8.8", True),
        ("64:ff9b::808:808", True),
        ("127.0.0.1", False), ("0.0.0.0", False), ("10.1.2.3", False), ("172.16.0.1", False),
        ("192.168.1.1", False), ("169.254.169.254", False), ("100.64.0.1", False),
        ("224.0.0.1", False), ("255.255.255.255", False), ("::1", False), ("::", False),
        ("fe80::1", False), ("fe80::1%2", False), ("fd00::1", False), ("ff0e::1", False),
        ("::ffff:127.0.0.1", False), ("::ffff:10.0.0.1", False), ("2002:7f00:1::", False),
        ("64:ff9b::a00:1", False), ("64:ff9b::7f00:1", False),
    ],
)  # fmt: skip
def test_public_addresses_are_global_and_unicast(address, is_public):
    assert web.is_public(address) is is_public


def test_the_environments_proxies_are_not_used(server, fetcher, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetcher.fetch("1.jpg") == IMAGE


def test_passwords_stand_in_no_message(server, fetcher):
    for path in ("absent.jpg", "2.jpg"):
        server.answers["/2.jpg"] = status(500)
        error = error_of(fetcher, f"http://me:secret@{server.host}/{path}")
        assert "secret" not in error.detail
        assert server.host in error.detail
    error = error_of(Fetcher("", (), HASTE), f"http://me:secret@{server.host}/1.jpg")
    assert "secret" not in error.detail
    error = error_of(Fetcher("", (), HASTE), "http://me:secret@a:b/1.jpg")
    assert "secret" not in error.detail


def test_too_many_bytes_are_refused_by_their_promise_or_as_they_come(server, fetcher, monkeypatch):
    monkeypatch.setattr(web, "MAX_FILE_BYTES", 10_000)
    assert error_of(fetcher, "1.jpg").reason == "too_many_bytes"

    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(IMAGE)

    server.answers["/2.jpg"] = endless
    assert error_of(fetcher, "2.jpg").reason == "too_many_bytes"
    packed = gzip.compress(bytes(10_000_000))
    server.answers["/3.jpg"] = lambda handler: handler.reply(
        200, packed[:9000], Content_Encoding="gzip"
    )
    assert error_of(fetcher, "3.jpg").reason == "too_many_bytes"


def test_a_packed_body_is_unpacked(server, fetcher):
    packed = gzip.compress(IMAGE)
    server.answers["/2.jpg"] = lambda handler: handler.reply(200, packed, Content_Encoding="gzip")
    server.answers["/3.jpg"] = lambda handler: handler.reply(200, IMAGE, Content_Encoding="br")
    server.answers["/4.jpg"] = lambda handler: handler.reply(200, IMAGE, Content_Encoding="gzip")
    server.answers["/5.jpg"] = in_turn(
        lambda handler: handler.reply(200, packed[:-20], Content_Encoding="gzip"), whole
    )
    assert fetcher.fetch("2.jpg") == IMAGE
    assert fetcher.probe("2.jpg") == content_key(IMAGE)
    assert error_of(fetcher, "3.jpg").reason == "unreadable"
    assert error_of(fetcher, "4.jpg").reason == "unreadable"
    assert fetcher.fetch("5.jpg") == IMAGE
    assert server.requests[0][1]["Accept-Encoding"] == "identity"


def test_a_checksum_that_differs_is_tried_once_more(server, fetcher):
    import hashlib

    checksum = f"sha256:{hashlib.sha256(IMAGE).hexdigest()}"
    damaged = IMAGE[:-1] + b"?"
    server.answers["/2.jpg"] = in_turn(lambda handler: handler.reply(200, damaged), whole)
    assert fetcher.fetch("2.jpg", checksum) == IMAGE
    server.answers["/3.jpg"] = lambda handler: handler.reply(200, damaged)
    error = error_of(fetcher, "3.jpg", checksum)
    assert error.reason == "checksum_mismatch"
    assert checksum in error.detail
    assert hashlib.sha256(damaged).hexdigest() in error.detail
    assert len(server.requests) == 4


def serving_ranges(data):
    """An answer by a server that knows ranges."""

    def answer(handler):
        wanted = handler.headers.get("Range")
        if wanted is None:
            return handler.reply(200, data)
        first, last = wanted.removeprefix("bytes=").split("-")
        start = int(first) if first else max(0, len(data) - int(last))
        end = min(len(data), int(last) + 1) if first else len(data)
        if start >= end:
            return handler.reply(416, Content_Range=f"bytes */{len(data)}")
        place = f"bytes {start}-{end - 1}/{len(data)}"
        return handler.reply(206, data[start:end], Content_Range=place)

    return answer


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 50_000])
@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_probe_is_the_content_key_of_the_whole(server, fetcher, size, knows_ranges):
    data = os.urandom(size)
    simple = lambda handler: handler.reply(200, data)  # noqa: E731
    server.answers["/2.jpg"] = serving_ranges(data) if knows_ranges else simple
    assert fetcher.probe("2.jpg") == content_key(data)
    assert fetcher.fetch("2.jpg") == data
    assert fetcher.probe(reference("2.jpg", 0, size)) == content_key(data)
    assert fetcher.fetch(reference("2.jpg", size // 2, size // 4)) == data[size // 2 :][: size // 4]
    with pytest.raises(ImageError):
        fetcher.fetch(reference("2.jpg", size, 1))


def test_a_probe_reads_no_more_than_the_end(server, fetcher):
    server.answers["/2.jpg"] = serving_ranges(IMAGE)
    assert fetcher.probe("2.jpg") == content_key(IMAGE)
    assert [headers.get("Range") for _, headers in server.requests] == ["bytes=-4096"]


@pytest.mark.parametrize(
    "place", ["bytes 0-4095/*", "bytes 0-4095/99", "nonsense", "bytes 5-4100/25600"]
)
def test_a_doubtful_range_is_not_believed(server, fetcher, place):
    def doubtful(handler):
        if "Range" in handler.headers:
            return handler.reply(206, IMAGE[:4096], Content_Range=place)
        return handler.reply(200, IMAGE)

    server.answers["/2.jpg"] = doubtful
    assert fetcher.probe("2.jpg") == content_key(IMAGE)


def test_many_are_fetched_at_once_and_come_in_order(server, fetcher):
    together = threading.Barrier(16, timeout=5)

    def meet(handler):
        together.wait()
        handler.reply(200, handler.path.encode())

    names = [f"{index}" for index in range(64)]
    server.answers.update({f"/{name}": meet for name in names})
    patient = Fetcher(server.url, (server.host,), Patience())
    wanted = [(name, "") for name in names]
    assert list(patient.fetch_all(wanted)) == [f"/{name}".encode() for name in names]


def test_local_and_remote_images_come_in_one_order(server, tmp_path):
    (tmp_path / "1.jpg").write_bytes(b"local")
    fetcher = Fetcher(str(tmp_path), (server.host,), HASTE)
    uris = ["1.jpg", f"{server.url}/1.jpg", "absent.jpg", f"{server.url}/absent.jpg", "1.jpg"] * 30
    fetched = list(fetcher.fetch_all((uri, "") for uri in uris))
    outcomes = [each.reason if isinstance(each, ImageError) else each for each in fetched]
    assert outcomes == [b"local", IMAGE, "not_found", "not_found", b"local"] * 30
    keys = [key if isinstance(key, str) else key.reason for key in fetcher.probe_all(uris[:4])]
    assert keys == [content_key(b"local"), content_key(IMAGE), "not_found", "not_found"]


def test_no_more_than_so_many_are_asked_for_ahead(server, fetcher):
    given = []

    def wanted():
        for index in range(1000):
            given.append(index)
            yield "1.jpg", ""

    fetched = fetcher.fetch_all(wanted())
    for index in range(10):
        assert next(fetched) == IMAGE
        assert len(given) <= index + 66
    fetched.close()


def test_large_images_are_asked_for_one_by_one(server, fetcher, monkeypatch):
    monkeypatch.setattr("pipeline.read_ahead.MAX_AHEAD_SIZE", 5 * len(IMAGE))
    fetched = fetcher.fetch_all([("1.jpg", "")] * 300)
    assert all(next(fetched) == IMAGE for _ in range(100))
    time.sleep(0.2)
    assert len(server.requests) <= 100 + 6 + 64  # before the first came their size was unknown
    num_requests = len(server.requests)
    time.sleep(0.2)
    assert len(server.requests) == num_requests
    assert list(fetched) == [IMAGE] * 200


def test_closing_early_stops_what_was_under_way(server, fetcher):
    server.answers["/2.jpg"] = drip_body
    fetched = fetcher.fetch_all([("1.jpg", ""), *[("2.jpg", "")] * 200])
    assert next(fetched) == IMAGE
    fetched.close()
    time.sleep(0.5)
    num_requests = len(server.requests)
    assert num_requests <= 66
    time.sleep(0.5)
    assert len(server.requests) == num_requests


@pytest.fixture
def secure_server(server, tmp_path):
    """The same over TLS, with a certificate that nobody has signed."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .add_extension(names, critical=False)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    kind = serialization.Encoding.PEM
    (tmp_path / "both.pem").write_bytes(
        key.private_bytes(kind, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(kind)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "both.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.host = f"localhost:{server.server_port}"
    server.url = f"https://{server.host}"
    return server


def test_a_certificate_that_nobody_has_signed_is_not_accepted(secure_server):
    fetcher = Fetcher(secure_server.url, (secure_server.host,), HASTE)
    error = error_of(fetcher, "1.jpg")
    assert error.reason == "unreadable"
    assert "certificate" in error.detail.lower()
    assert not secure_server.requests


def test_a_certificate_that_the_system_trusts_is_accepted(secure_server, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "both.pem"))
    fetcher = Fetcher(secure_server.url, (secure_server.host,), HASTE)
    assert [fetcher.fetch("1.jpg") for _ in range(3)] == [IMAGE] * 3
    assert len(secure_server.peers) == 1


def test_a_private_address_is_refused_over_tls_too(secure_server):
    error = error_of(Fetcher("", (), HASTE), f"{secure_server.url}/1.jpg")
    assert error.reason == "refused_address"
