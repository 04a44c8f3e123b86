"""Receivers for the driver: nginx where it is installed, else `bench.receiver`. Each can say how many POSTs came."""

import http.client
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NGINX_CONF = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 1h;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /count {{ stub_status; }}
    location / {{ return 204; }}
  }}
}}
"""


class Sink:
    """A receiver that answers 204 to every POST."""

    def __init__(self, kind: str, port: int) -> None:
        self.kind = kind
        self.url = f"http://127.0.0.1:{port}"
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._asked = 0  # nginx counts our questions as well

    def received(self) -> int:
        """Return how many POSTs have come so far."""
        self._connection.request("GET", "/count")
        text = self._connection.getresponse().read().decode()
        if self.kind == "python":
            return int(text)
        self._asked += 1
        numbers = re.search(r"requests\s+\d+\s+\d+\s+(\d+)", text)
        assert numbers is not None, text
        return int(numbers[1]) - self._asked

    def close(self) -> None:
        self._connection.close()


@contextmanager
def open_sink(kind: str, folder: Path) -> Iterator[Sink]:
    """Start a receiver, `auto` being nginx where it is installed, and stop it afterwards."""
    if kind == "auto":
        kind = "python" if shutil.which("nginx") is None else "nginx"
    process, port = _start_nginx(folder) if kind == "nginx" else _start_python()
    sink = Sink(kind, port)
    try:
        yield sink
    finally:
        sink.close()
        process.terminate()
        process.wait(10)


def _start_python() -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen([sys.executable, "-m", "bench.receiver"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as stdout:
        return process, int(stdout.readline())


def _start_nginx(folder: Path) -> tuple[subprocess.Popen[str], int]:
    port = _free_port()
    conf = folder / "nginx.conf"
    conf.write_text(NGINX_CONF.format(folder=folder.resolve(), port=port))
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
