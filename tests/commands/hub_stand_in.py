"""A local stand-in for the Hugging Face hub: the routes that creating and filling a repository
needs, over HTTP, with what was asked kept for the tests."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_stand_in_token"


@dataclass
class Hub:
    """What the hub holds, and how it answers.

    repos: name -> {private, files}. refuse: path -> (status, message) in place of an answer.
    """

    url: str = ""
    repos: dict[str, dict[str, Any]] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status and JSON of one request."""
        for part, refusal in self.refuse.items():
            if part in path:
                return refusal[0], {"error": refusal[1]}
        if path == "/api/whoami-v2":
            return 200, {"type": "user", "name": "someone"}
        if path == "/api/validate-yaml":
            return 200, {"warnings": [], "errors": []}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if method == "PUT" and path.startswith("/lfs/"):
            self.large[path.removeprefix("/lfs/")] = body
            return 200, {}
        if path.endswith(".git/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": [*map(self._slot, _objects(body))]}
        repo = path.removeprefix("/api/models/")
        if "/preupload/" in repo:
            return 200, {"files": [_mode(one) for one in json.loads(body)["files"]]}
        if "/commit/" in repo:
            return self._commit(repo.partition("/commit/")[0], body)
        if repo in self.repos:
            private = self.repos[repo]["private"]
            return 200, {"id": repo, "private": private, "siblings": [], "tags": []}
        return 404, {"error": "Repository not found"}

    def _create(self, wanted: dict[str, Any]) -> tuple[int, Any]:
        name = "/".join(filter(None, [wanted.get("organization") or "someone", wanted["name"]]))
        if name in self.repos:
            return 409, {
                "error": "You already created this model repo",
                "url": f"{self.url}/{name}",
            }
        private = wanted.get("private", wanted.get("visibility") == "private")
        self.repos[name] = {"private": private, "files": {}}
        return 200, {"url": f"{self.url}/{name}", "name": name}

    def _slot(self, wanted: dict[str, Any]) -> dict[str, Any]:
        upload = {"href": f"{self.url}/lfs/{wanted['oid']}"}
        return {**wanted, "actions": {"upload": upload}}

    def _commit(self, repo: str, body: bytes) -> tuple[int, Any]:
        files = self.repos[repo]["files"]
        for line in map(json.loads, body.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
        return 200, {"commitUrl": f"{self.url}/{repo}/commit/1", "commitOid": "1"}


def _objects(body: bytes) -> list[dict[str, Any]]:
    return json.loads(body)["objects"]


def _mode(file: dict[str, Any]) -> dict[str, Any]:
    mode = "lfs" if file["path"].endswith(".safetensors") else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Answer on a port of this machine until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            hub.asked.append(f"{self.command} {path}")
            status, value = hub.answer(self.command, path, body)
            signed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if not signed and not path.startswith("/lfs/"):
                status, value = 401, {"error": "Invalid username or password."}
            text = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = _respond

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing: pytest's output is for the tests."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
