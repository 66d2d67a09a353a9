"""A smart plug for tests: a real HTTP server on the loopback whose answers a test chooses."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Plug:
    """Counts up ``watts`` in a Shelly's form, unless ``answer`` says otherwise."""

    def __init__(self, watts: float = 3.6e5) -> None:
        self.watts = watts
        self.asked: list[str] = []
        self.answer: Callable[[BaseHTTPRequestHandler], None] = self.shelly
        self._born = time.monotonic()
        plug = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                plug.asked.append(self.path)
                plug.answer(self)

            def log_message(self, *_: Any) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None: ...  # a client that hangs up is what some tests are about

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/rpc/Switch.GetStatus?id=0"

    def shelly(self, request: BaseHTTPRequestHandler) -> None:
        wh = self.watts * (time.monotonic() - self._born) / 3600
        send(request, json.dumps({"id": 0, "apower": self.watts, "aenergy": {"total": wh}}).encode())

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def send(request: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    request.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)
