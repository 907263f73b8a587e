"""A small hub on loopback: it serves folders in the few endpoints that huggingface_hub asks for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Handler(BaseHTTPRequestHandler):
    repositories: dict[str, Path]
    asked: list[str]

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.asked.append(f"{self.command} {path}")
        if path.startswith("api/models/"):
            owner, name, *rest = path.removeprefix("api/models/").split("/")
            self._describe(f"{owner}/{name}", rest)
        else:
            owner, name, *rest = path.split("/")
            file = self.repositories.get(f"{owner}/{name}", Path("/nowhere")) / "/".join(rest[2:])
            self._file(file, body)

    def _describe(self, repository: str, rest: list[str]) -> None:
        folder = self.repositories.get(repository)
        if folder is None:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif rest[:1] == ["tree"]:
            self._send(200, json.dumps([_entry(f, folder) for f in _files(folder)]).encode())
        else:
            siblings = [{"rfilename": str(f.relative_to(folder))} for f in _files(folder)]
            info = {"id": repository, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
            self._send(200, json.dumps(info).encode())

    def _file(self, file: Path, body: bool) -> None:
        if not file.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        content = file.read_bytes()
        tag = f'"{_tag(file)}"'
        headers = {"X-Repo-Commit": COMMIT, "ETag": tag, "X-Linked-Etag": tag, "X-Linked-Size": str(len(content))}
        self._send(200, content, headers, body)

    def _send(self, code: int, content: bytes, headers: dict[str, str] | None = None, body: bool = True) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(content)


def _files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*") if f.is_file())


def _entry(file: Path, folder: Path) -> dict[str, object]:
    name, size = str(file.relative_to(folder)), file.stat().st_size
    entry: dict[str, object] = {"type": "file", "path": name, "size": size, "oid": _git_sha(file)}
    if file.suffix == ".safetensors":
        entry["lfs"] = {"oid": _tag(file), "size": file.stat().st_size, "pointerSize": 134}
    return entry


def _tag(file: Path) -> str:
    # As on the real hub: large files are known by SHA-256, others by git's SHA-1.
    content = file.read_bytes()
    return hashlib.sha256(content).hexdigest() if file.suffix == ".safetensors" else _git_sha(file)


def _git_sha(file: Path) -> str:
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serve(repositories: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Address of the hub, and the list of requests as they come in."""
    handler = type("Handler", (_Handler,), {"repositories": repositories, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", handler.asked
    finally:
        server.shutdown()
        server.server_close()
