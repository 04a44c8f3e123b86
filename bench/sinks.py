"""Receivers for the driver: nginx where it is installed, else `bench.receiver`. Each can say how many POSTs came."""

import http.client
import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import trustme

NGINX_CONF = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; client_max_body_size 2m;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} {ssl} backlog=4096; {tls}
    location = /count {{ stub_status; }}
    location / {{ return 204; }}
  }}
}}
"""

TLS_CONF = "ssl_certificate {pem}; ssl_certificate_key {pem};"


class Counts(NamedTuple):
    """What came to a receiver so far, without the driver's own questions."""

    received: int
    connections: int


class Sink:
    """A receiver that answers 204 to every POST, or to all but one in n."""

    def __init__(self, kind: str, port: int, ca: Path | None = None) -> None:
        self.kind = kind
        self.ca = ca  # who signed its certificate, when it speaks TLS
        self.url = f"{'http' if ca is None else 'https'}://127.0.0.1:{port}"
        self._asked = 0  # nginx counts our questions as well
        self._connection: http.client.HTTPConnection
        if ca is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        else:
            trusted = ssl.create_default_context(cafile=str(ca))
            self._connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=trusted)

    def counts(self) -> Counts:
        """Return how many POSTs have been taken so far, and over how many connections."""
        text = self._ask("/count")
        if self.kind == "python":
            return Counts(*json.loads(text))
        self._asked += 1
        numbers = re.search(r"requests\s+(\d+)\s+\d+\s+(\d+)", text)
        assert numbers is not None, text
        return Counts(int(numbers[2]) - self._asked, int(numbers[1]) - 2)  # the first look whether it listens, and ours

    def received(self) -> int:
        """Return how many POSTs have been taken so far."""
        return self.counts().received

    def ages(self) -> dict[str, float]:
        """Return how old, in ms, the events were that came since the last question; of a Python receiver."""
        ages: dict[str, float] = json.loads(self._ask("/ages"))
        return ages

    def close(self) -> None:
        self._connection.close()

    def _ask(self, path: str) -> str:
        self._connection.request("GET", path)
        return self._connection.getresponse().read().decode()


@contextmanager
def open_sink(kind: str, folder: Path, *, tls: bool = False, fail_one_in: int = 0) -> Iterator[Sink]:
    """Start a receiver, `auto` being nginx where it is installed, and stop it afterwards. Only nginx speaks TLS."""
    if kind == "auto":
        kind = "python" if shutil.which("nginx") is None or fail_one_in else "nginx"
    if tls and kind != "nginx":
        raise SystemExit("bench: a receiver that speaks TLS needs nginx; `apt-get install nginx-light`")
    process, port = _start_nginx(folder, tls) if kind == "nginx" else _start_python(fail_one_in)
    sink = Sink(kind, port, folder / "ca.pem" if tls else None)
    try:
        yield sink
    finally:
        sink.close()
        process.terminate()
        process.wait(10)


def _start_python(fail_one_in: int) -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-m", "bench.receiver", "--fail-one-in", str(fail_one_in)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as stdout:
        return process, int(stdout.readline())


def _start_nginx(folder: Path, tls: bool) -> tuple[subprocess.Popen[str], int]:
    port = _free_port()
    conf = folder / "nginx.conf"
    pem = folder.resolve() / "receiver.pem"
    if tls:
        ca = trustme.CA()
        ca.cert_pem.write_to_path(str(folder / "ca.pem"))
        ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pem))
    spoken = TLS_CONF.format(pem=pem) if tls else ""
    conf.write_text(NGINX_CONF.format(folder=folder.resolve(), port=port, ssl="ssl" if tls else "", tls=spoken))
    command = ["nginx", "-e", "stderr", "-c", str(conf.resolve()), "-p", str(folder.resolve())]
    process = subprocess.Popen(command, text=True)
    _await_port(port, process)
    return process, port


def _await_port(port: int, process: subprocess.Popen[str]) -> None:
    for _ in range(200):
        if process.poll() is not None:
            raise SystemExit(f"bench: nginx ended with {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    raise SystemExit("bench: nginx does not listen")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
