"""/healthz, on its own thread: never touches the plane, only what the loop last published."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

State = dict[str, Any]


def try_serve(port: int, state: State) -> str | None:
    """Serve `state` on a thread of its own; the reason where the port cannot be bound (hostNetwork may have taken it)."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/healthz"
            body = json.dumps(state if known else {"reason": "unknown path"}).encode()
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet at rest: a probe is no news."""

    try:
        server = ThreadingHTTPServer(("", port), Answer)
    except OSError as error:
        return f"port {port} cannot be bound ({error.strerror}); free it or set sidecar http_port"
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return None
