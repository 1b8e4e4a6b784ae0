"""A hub on this machine: the few answers that a download needs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def fake_hub(name: str, folder: Path, error: tuple[int, str] | None = None) -> Iterator[str]:
    """Serves `folder` as the model `name`, or answers each question with (status, error code)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(with_body=True)

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def answer(self, with_body: bool) -> None:
            path = self.path.partition("?")[0]
            files = {file.name: file for file in folder.iterdir()}
            if error is not None:
                self.send(error[0], b"{}", {"X-Error-Code": error[1]}, with_body)
            elif path in (f"/api/models/{name}", f"/api/models/{name}/revision/main"):
                siblings = [{"rfilename": file} for file in files]
                info = {"id": name, "sha": COMMIT, "siblings": siblings}
                self.send(200, json.dumps(info).encode(), {}, with_body)
            elif path == f"/api/models/{name}/tree/{COMMIT}":
                rows = [
                    {"type": "file", "path": file, "size": at.stat().st_size, "oid": digest(at)}
                    for file, at in files.items()
                ]
                self.send(200, json.dumps(rows).encode(), {}, with_body)
            elif path.startswith(f"/{name}/resolve/{COMMIT}/"):
                file = files[path.rpartition("/")[2]]
                headers = {"ETag": f'"{digest(file)}"', "X-Repo-Commit": COMMIT}
                self.send(200, file.read_bytes(), headers, with_body)
            else:
                self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body)

        def send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def digest(file: Path) -> str:
    """A name for the file's content."""
    return hashlib.sha1(file.read_bytes()).hexdigest()
