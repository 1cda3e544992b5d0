"""An HTTP server on a thread that answers, or does not, as a test says; it counts what comes."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["Exchange", "HTTPServer", "running_http_server", "self_signed"]

#: Longer than any test runs.
_WAIT_S = 100.0


@dataclass
class Exchange:
    """One request, and what may be answered."""

    handler: BaseHTTPRequestHandler
    server: HTTPServer
    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: bytes
    number: int
    """1 for the first request of that path."""

    def send(self, content: Any = None, status: int = 200, **headers: str) -> None:
        """Answer with JSON; a header's underscores are read as hyphens."""
        body = json.dumps(content).encode()
        self.begin(len(body), status, **headers)
        self.handler.wfile.write(body)

    def begin(self, size_bytes: int, status: int = 200, **headers: str) -> None:
        """Send the head of an answer of that size."""
        self.handler.send_response(status)
        self.handler.send_header("Content-Length", str(size_bytes))
        for name, value in headers.items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.end_headers()
        self.handler.wfile.flush()

    def write(self, piece: bytes) -> None:
        """Send a piece of the body."""
        self.handler.wfile.write(piece)
        self.handler.wfile.flush()

    def drop(self) -> None:
        """Cut the connection without a word."""
        self.handler.close_connection = True
        self.handler.connection.shutdown(socket.SHUT_RDWR)

    def wait(self) -> None:
        """Answer only once the test says so."""
        self.server.go.wait(_WAIT_S)


Answer = Callable[[Exchange], None]


@dataclass
class HTTPServer:
    """Where it is, what it answers, and what it has seen."""

    url: str = ""
    answers: dict[str, Answer] = field(default_factory=dict)
    seen: list[Exchange] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    connections: set[socket.socket] = field(default_factory=set)
    connected: int = 0
    most_connections: int = 0
    at_once: int = 0
    most_at_once: int = 0

    def on(self, path: str, answer: Answer) -> None:
        """Say what is answered to requests for that path."""
        self.answers[path] = answer

    def requests(self, path: str) -> list[Exchange]:
        """What came for that path."""
        return [each for each in self.seen if each.path == path]


@contextlib.contextmanager
def running_http_server(tls: ssl.SSLContext | None = None) -> Iterator[HTTPServer]:
    """Run a server on a free port of 127.0.0.1 until the block ends.

    Args:
        tls: Speaks TLS by that; ``None``: plain.
    """
    server = HTTPServer()

    class Listener(ThreadingHTTPServer):
        daemon_threads = False  # they are waited for
        request_queue_size = 512

        def finish_request(self, request: Any, client_address: Any) -> None:
            if tls is not None:  # in the connection's own thread: the client may not like it
                request = tls.wrap_socket(request, server_side=True)
            try:
                super().finish_request(request, client_address)
            finally:
                request.close()

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client may go away at any time."""

    listener = Listener(("127.0.0.1", 0), _handler(server))
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{listener.server_address[1]}"
    thread = threading.Thread(target=listener.serve_forever, args=(0.02,), name="http-server")
    thread.start()
    try:
        yield server
    finally:
        server.go.set()
        listener.shutdown()
        with server.lock:
            for connection in server.connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        listener.server_close()
        thread.join(120)


def _handler(server: HTTPServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            with server.lock:
                server.connections.add(self.connection)
                server.connected += 1
                server.most_connections = max(server.most_connections, len(server.connections))

        def finish(self) -> None:
            with server.lock:
                server.connections.discard(self.connection)
            super().finish()

        def answer(self) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            query = {name: values[-1] for name, values in parse_qs(url.query).items()}
            with server.lock:
                number = len(server.requests(url.path)) + 1
                exchange = Exchange(self, server, self.command, url.path, query, self.headers, body, number)
                server.seen.append(exchange)
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
            try:
                server.answers[url.path](exchange)
            finally:
                with server.lock:
                    server.at_once -= 1

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def log_message(self, format: str, *arguments: Any) -> None:
            """The test says what matters."""

    return Handler


def self_signed(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Make a certificate for 127.0.0.1; returns what a server needs, and the file that a client trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "server.crt", folder / "server.key"
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(public, private)
    return context, public
