"""A server that speaks as much of S3 as reading needs, over a folder, and fails as a test says."""

import contextlib
import fcntl
import http.server
import threading
import urllib.parse
from xml.sax.saxutils import escape

KEYS = {
    "AWS_ACCESS_KEY_ID": "anyone",
    "AWS_SECRET_ACCESS_KEY": "anything",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def taken(cache):
    """Bytes of all files of a ShardCache's folder, while none is made or named."""
    if not (cache / "lock").exists():
        return 0
    total = 0
    with open(cache / "lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for path in cache.iterdir():
            with contextlib.suppress(FileNotFoundError):  # a download that was given up
                total += path.stat().st_size
    return total


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer(with_body=False)

    def do_GET(self):
        self._answer(with_body=True)

    def _answer(self, with_body):
        address = urllib.parse.urlsplit(self.path)
        query = urllib.parse.parse_qs(address.query)
        key = urllib.parse.unquote(address.path).strip("/").partition("/")[2]
        with contextlib.suppress(ConnectionError):
            if "list-type" in query:
                self._reply(200, self._listing(query.get("prefix", [""])[0]))
            else:
                self._object(self.server.root / key, with_body)

    def _object(self, path, with_body):
        if not path.is_file():
            return self._reply(404, b"")
        data = path.read_bytes()
        is_shard = path.name.startswith("images-")
        if is_shard and self.server.is_cut:
            data = data[:100]
        first, last = 0, len(data) - 1
        wanted = self.headers.get("Range")
        if wanted:
            first, last = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
        part = data[first : last + 1]
        if with_body and is_shard:
            self.server.fetched.append(path.name)
        headers = {
            "Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(data)}",
            "Last-Modified": "Wed, 01 Jan 2025 00:00:00 GMT",
            "ETag": f'"{path.stat().st_mtime_ns:x}"',
        }
        return self._reply(206 if wanted else 200, part, headers, with_body)

    def _listing(self, prefix):
        folder = self.server.root / prefix
        found, folders = "", ""
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            name = escape(f"{prefix.rstrip('/')}/{path.name}")
            if path.is_dir():
                folders += f"<CommonPrefixes><Prefix>{name}/</Prefix></CommonPrefixes>"
            else:
                found += f"<Contents><Key>{name}</Key><Size>{path.stat().st_size}</Size>"
                found += "<LastModified>2025-01-01T00:00:00.000Z</LastModified></Contents>"
        inside = f"<IsTruncated>false</IsTruncated>{found}{folders}"
        return f"<ListBucketResult>{inside}</ListBucketResult>".encode()

    def _reply(self, status, body, headers=(), with_body=True):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


class ObjectStore(http.server.ThreadingHTTPServer):
    """Serves the folder `root` as s3://bucket, within a `with` block."""

    daemon_threads = True

    def __init__(self, root):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.is_cut = False  # shards end after 100 bytes
        self.fetched = []  # names of the shards that were asked for
        self.environment = {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server_port}"}

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()
