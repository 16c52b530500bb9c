"""A small Hugging Face Hub for the tests: one branch of model repositories, in memory, over HTTP,
as far as ``huggingface_hub``'s file system speaks with it.

Files go in as parts of a commit: small ones inside its lines, large ones first to where git-lfs's
batch API sends them, by their SHA-256.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class Hub(ThreadingHTTPServer):
    """Repositories by name; ``token`` is what a request must bear; ``large`` the size from which a
    file goes by git-lfs.
    """

    daemon_threads = True

    def __init__(self, token: str = "secret", large: int = 1 << 20) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token, self.large = token, large
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.uploads: dict[str, bytes] = {}
        self.commits = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def head(self) -> str:
        return f"{self.commits:040x}"


@contextmanager
def hub_of(*repositories: str, **settings: Any) -> Iterator[Hub]:
    """A hub with these empty repositories, while it is used."""
    hub = Hub(**settings)
    hub.repositories = {name: {} for name in repositories}
    thread = threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, status: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        given = {"Content-Type": kind, "Content-Length": str(len(body))}
        for name, value in (given | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        path = unquote(urlsplit(self.path).path)

        if path.startswith("/upload/"):
            self.server.uploads[path.removeprefix("/upload/")] = body
            self._answer(200)
            return
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self._answer(
                401, {"error": "Invalid credentials"}, X_Error_Message="Invalid credentials"
            )
            return
        if path == "/api/validate-yaml":  # what stands at the head of a README
            self._answer(200, {"errors": [], "warnings": []})
            return
        for pattern, answer in ROUTES:
            found = re.fullmatch(pattern, path)
            if found:
                name, *rest = found.groups()
                files = self.server.repositories.get(name)
                if files is None:
                    self._answer(
                        404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound"
                    )
                else:
                    answer(self, name, files, body, *rest)
                return
        self._answer(404, {"error": f"no {path}"})

    do_GET = do_POST = do_PUT = do_HEAD = _serve

    def info(self, name: str, files: dict[str, bytes], body: bytes, *rest: str) -> None:
        siblings = [{"rfilename": path} for path in files]
        self._answer(
            200, {"id": name, "sha": self.server.head, "siblings": siblings, "private": False}
        )

    def tree(self, name: str, files: dict[str, bytes], body: bytes, *rest: str) -> None:
        self._answer(200, [_entry(path, content) for path, content in sorted(files.items())])

    def paths(self, name: str, files: dict[str, bytes], body: bytes, *rest: str) -> None:
        form = not body.startswith(b"{")  # as huggingface_hub sent it before version 2
        asked = parse_qs(body.decode())["paths"] if form else json.loads(body)["paths"]
        self._answer(200, [_entry(path, files[path]) for path in asked if path in files])

    def preupload(self, name: str, files: dict[str, bytes], body: bytes, *rest: str) -> None:
        asked = json.loads(body)["files"]
        kinds = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["size"] >= self.server.large else "regular",
                "shouldIgnore": False,
            }
            for one in asked
        ]
        self._answer(200, {"files": kinds})

    def batch(self, name: str, files: dict[str, bytes], body: bytes, *rest: str) -> None:
        where = f"{self.server.url}/upload/"
        objects = [
            {**one, "actions": {"upload": {"href": where + one["oid"], "header": {}}}}
            for one in json.loads(body)["objects"]
        ]
        self._answer(200, {"transfer": "basic", "objects": objects})

    def commit(self, name: str, files: dict[str, bytes], body: bytes, *rest: str) -> None:
        for line in filter(None, body.splitlines()):
            given = json.loads(line)
            value = given["value"]
            if given["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif given["key"] == "lfsFile":
                files[value["path"]] = self.server.uploads[value["oid"]]
            elif given["key"] == "deletedFile":
                files.pop(value["path"], None)
        self.server.commits += 1
        url = f"{self.server.url}/{name}/commit/{self.server.head}"
        self._answer(200, {"success": True, "commitUrl": url, "commitOid": self.server.head})

    def resolve(self, name: str, files: dict[str, bytes], body: bytes, *rest: str) -> None:
        content = files.get(rest[-1])
        if content is None:
            self._answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
            return
        about = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": self.server.head,
        }
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not asked:
            self._answer(200, content, **about)
            return
        first, last = int(asked[1]), int(asked[2] or len(content) - 1)
        about["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self._answer(206, content[first : last + 1], **about)


def _entry(path: str, content: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(content).hexdigest()
    return {"type": "file", "path": path, "size": len(content), "oid": oid}


REPO = r"([^/]+/[^/]+)"
ROUTES: list[tuple[str, Any]] = [
    (rf"/api/models/{REPO}(?:/revision/[^/]+)?", _Handler.info),
    (rf"/api/models/{REPO}/tree/([^/]+)(?:/.*)?", _Handler.tree),
    (rf"/api/models/{REPO}/paths-info/([^/]+)", _Handler.paths),
    (rf"/api/models/{REPO}/preupload/([^/]+)", _Handler.preupload),
    (rf"/api/models/{REPO}/commit/([^/]+)", _Handler.commit),
    (rf"/{REPO}\.git/info/lfs/objects/batch", _Handler.batch),
    (rf"/{REPO}/resolve/([^/]+)/(.+)", _Handler.resolve),
]
