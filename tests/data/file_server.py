"""An HTTP server of one folder, which fails on purpose."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Server:
    """Serves a folder; ``faults[path]`` is a list of what to do at the next requests instead of
    answering well.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.requests, self.faults, self.tags = folder, [], {}, True  # type: ignore[var-annotated]
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append((request.path, request.headers.get("Range")))
        waiting = self.faults.get(request.path, [])
        fault = waiting.pop(0) if waiting else None
        file = self.folder / request.path.lstrip("/")
        if fault == 503 or not file.is_file():
            request.send_error(fault or 404)
            return
        data = file.read_bytes()
        first = 0
        if request.headers.get("Range") and self.tags:
            first = int(request.headers["Range"].removeprefix("bytes=").rstrip("-"))
        request.send_response(206 if first else 200)
        request.send_header("Content-Length", str(len(data) - first))
        if self.tags:
            request.send_header("ETag", f'"{len(data)}"')
        request.end_headers()
        if fault == "cut":
            request.wfile.write(data[first : first + (len(data) - first) // 2])
            request.connection.close()
        elif fault == "stall":
            request.wfile.write(data[first : first + 1000])
            request.wfile.flush()
            time.sleep(2)
        else:
            request.wfile.write(data[first:])
