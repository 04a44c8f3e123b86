"""A stand-in for the daemon's API: answers what a test told it to, and remembers what was asked."""

import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple


class Asked(NamedTuple):
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class ApiStub:
    """Listens on a TCP port, or on a Unix socket when given a path. Answers 404 to what it was not told about."""

    def __init__(self, unix: Path | None = None) -> None:
        self.asked: list[Asked] = []
        self._answers: dict[tuple[str, str], list[tuple[int, Any]]] = {}
        handler = type("Handler", (_Handler,), {"stub": self})
        self._server: socketserver.BaseServer
        if unix is None:
            tcp = ThreadingHTTPServer(("127.0.0.1", 0), handler)
            self._server, self.url = tcp, f"http://127.0.0.1:{tcp.server_port}"
        else:
            self._server, self.url = _UnixServer(str(unix), handler), f"unix:{unix}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def answer(self, method: str, path: str, data: Any, status: int = 200) -> None:
        """Answer the next request for `path` (with its query) so; the last answer given is repeated."""
        self._answers.setdefault((method, _sorted(path)), []).append((status, data))

    def problem(self, method: str, path: str, status: int, title: str, **members: Any) -> None:
        """Answer with a problem document."""
        self.answer(method, path, {"type": "x", "title": title, "status": status, **members}, status)

    def take(self, asked: Asked) -> tuple[int, Any]:
        self.asked.append(asked)
        answers = self._answers.get((asked.method, _sorted(asked.path)))
        if not answers:
            return 404, {"title": "There is no such thing", "status": 404, "detail": f"{asked.method} {asked.path}"}
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _sorted(path: str) -> str:
    """The order of a query's parameters means nothing."""
    name, _, query = path.partition("?")
    return f"{name}?{'&'.join(sorted(query.split('&')))}"


class _Handler(BaseHTTPRequestHandler):
    stub: ApiStub

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, data = self.stub.take(Asked(self.command, self.path, dict(self.headers), body))
        content = data if isinstance(data, bytes) else b"" if data is None else json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815  # the names that http.server looks for

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def get_request(self) -> Any:
        request, _ = super().get_request()
        return request, ("local", 0)
