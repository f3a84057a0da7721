"""A small server that speaks as much of the Hub's protocol as uploading, downloading and streaming a data set need.

Everything is kept in memory. Parquet files go through the LFS endpoints, small texts stand inside the commit, as on the Hub.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class LocalHub:
    """`with LocalHub() as hub:` serves at `hub.url`; `hub.files(repo)` is the newest state of a repository."""

    def __init__(self) -> None:
        self.repos: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.refused: set[str] = set()
        hub = self

        class BoundHandler(Handler):
            state = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), BoundHandler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> "LocalHub":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """Path to content at a branch or commit."""
        return next(files for commit, files in reversed(self.repos[repo]) if revision in ("main", commit))

    def commit_of(self, repo: str) -> str:
        return self.repos[repo][-1][0]

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        """Put a new state on top."""
        digest = hashlib.sha1(f"{repo}{len(self.repos[repo])}".encode()).hexdigest()
        self.repos[repo].append((digest, files))
        return digest


class Handler(BaseHTTPRequestHandler):
    state: LocalHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer("GET")

    def do_HEAD(self) -> None:
        self.answer("HEAD")

    def do_POST(self) -> None:
        self.answer("POST")

    def do_PUT(self) -> None:
        self.answer("PUT")

    def log_message(self, *arguments: object) -> None:
        pass

    def answer(self, method: str) -> None:
        path = unquote(urlsplit(self.path).path)
        self.state.requests.append(f"{method} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for pattern, handle in ROUTES:
            match = re.fullmatch(pattern, path)
            if match:
                repo = match.groupdict().get("repo")
                if repo in self.state.refused:
                    return self.send(b"", 403)
                if repo is not None and repo not in self.state.repos:
                    return self.send(b"", 404, {"X-Error-Code": "RepoNotFound"})
                return handle(self, body, **match.groupdict())
        self.send(b"", 404, {"X-Error-Code": "EntryNotFound"})

    def send(self, data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def send_json(self, value: object) -> None:
        self.send(json.dumps(value).encode(), headers={"Content-Type": "application/json"})

    def create(self, body: bytes) -> None:
        wanted = json.loads(body)
        repo = f"{wanted['organization']}/{wanted['name']}"
        if repo in self.state.refused:
            return self.send(b"", 403)
        if repo not in self.state.repos:
            self.state.repos[repo] = []
            self.state.commit(repo, {})
        self.send_json({"url": f"{self.state.url}/datasets/{repo}"})

    def validate_card(self, body: bytes) -> None:
        self.send_json({"errors": [], "warnings": []})

    def info(self, body: bytes, repo: str, revision: str | None = None) -> None:
        files = self.state.files(repo, revision or "main")
        siblings = [{"rfilename": path} for path in files]
        self.send_json({"id": repo, "sha": self.state.commit_of(repo), "siblings": siblings, "private": False})

    def preupload(self, body: bytes, repo: str, revision: str) -> None:
        files = [
            {
                "path": f["path"],
                "uploadMode": "lfs" if f["path"].endswith(".parquet") else "regular",
                "shouldIgnore": False,
            }
            for f in json.loads(body)["files"]
        ]
        self.send_json({"files": files})

    def lfs_batch(self, body: bytes, repo: str) -> None:
        objects = [
            {**wanted, "actions": {"upload": {"href": f"{self.state.url}/objects/{wanted['oid']}"}}}
            for wanted in json.loads(body)["objects"]
        ]
        self.send_json({"transfer": "basic", "objects": objects})

    def put_object(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.state.objects[oid] = body
        self.send(b"")

    def commit(self, body: bytes, repo: str, revision: str) -> None:
        files = dict(self.state.files(repo))
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.state.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        commit = self.state.commit(repo, files)
        self.send_json({"commitUrl": f"{self.state.url}/datasets/{repo}/commit/{commit}", "commitOid": commit})

    def entries(self, repo: str, revision: str) -> list[dict]:
        files = self.state.files(repo, revision)
        folders = {path.rsplit("/", depth)[0] for path in files for depth in range(1, path.count("/") + 1)}
        found = [{"type": "directory", "path": folder, "oid": "0" * 40} for folder in sorted(folders)]
        for path, data in files.items():
            oid = hashlib.sha256(data).hexdigest()
            entry = {"type": "file", "path": path, "size": len(data), "oid": oid[:40]}
            if path.endswith(".parquet"):
                entry["lfs"] = {"oid": oid, "size": len(data), "pointerSize": 130}
            found.append(entry)
        return found

    def tree(self, body: bytes, repo: str, revision: str, folder: str | None = None) -> None:
        recursive = "recursive=true" in self.path.lower() or "recursive=1" in self.path
        prefix = f"{folder}/" if folder else ""
        below = [entry for entry in self.entries(repo, revision) if entry["path"].startswith(prefix)]
        if folder and not below:
            return self.send(b"", 404, {"X-Error-Code": "EntryNotFound"})
        self.send_json([e for e in below if recursive or "/" not in e["path"].removeprefix(prefix)])

    def paths_info(self, body: bytes, repo: str, revision: str) -> None:
        wanted = json.loads(body)["paths"]
        self.send_json([entry for entry in self.entries(repo, revision) if entry["path"] in wanted])

    def resolve(self, body: bytes, repo: str, revision: str, file: str) -> None:
        data = self.state.files(repo, revision).get(file)
        if data is None:
            return self.send(b"", 404, {"X-Error-Code": "EntryNotFound"})
        commit = next(c for c, files in reversed(self.state.repos[repo]) if revision in ("main", c))
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        headers = {"ETag": etag, "X-Linked-Etag": etag, "X-Linked-Size": str(len(data)), "X-Repo-Commit": commit}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return self.send(data, headers={**headers, "Accept-Ranges": "bytes"})
        first, last = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self.send(data[first : last + 1], 206, headers)


REPO, REVISION = r"(?P<repo>[\w.-]+/[\w.-]+)", r"(?P<revision>[\w.-]+)"
ROUTES = [
    (r"/api/repos/create", Handler.create),
    (r"/api/validate-yaml", Handler.validate_card),
    (rf"/api/datasets/{REPO}", Handler.info),
    (rf"/api/datasets/{REPO}/revision/{REVISION}", Handler.info),
    (rf"/api/datasets/{REPO}/preupload/{REVISION}", Handler.preupload),
    (rf"/datasets/{REPO}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    (r"/objects/(?P<oid>\w+)", Handler.put_object),
    (rf"/api/datasets/{REPO}/commit/{REVISION}", Handler.commit),
    (rf"/api/datasets/{REPO}/tree/{REVISION}(/(?P<folder>.+))?", Handler.tree),
    (rf"/api/datasets/{REPO}/paths-info/{REVISION}", Handler.paths_info),
    (rf"/datasets/{REPO}/resolve/{REVISION}/(?P<file>.+)", Handler.resolve),
]
