"""A stand-in for the Hugging Face hub here: the part of its HTTP interface that we use."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import yaml

TOKEN = "hf_standin"
COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """Repositories in memory; ``lfs`` says that heads go there as large files do."""

    def __init__(self, lfs: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lfs = lfs
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}
        self.made: list[dict] = []
        self.broken = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None: ...

    def answer(self, status: int, record: object = None, code: str = "", **headers: str) -> None:
        body = record if isinstance(record, bytes) else json.dumps(record).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def read(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.server.broken:
            return self.answer(self.server.broken, {"error": "made to fail"})
        owner, name, what, revision, *path = unquote(self.path.partition("?")[0])[1:].split("/")
        files = self.server.repositories.get(f"{owner}/{name}")
        if files is None:
            return self.answer(401, {"error": "Repository not found"}, "RepoNotFound")
        assert what == "resolve"
        if revision not in ("main", "v1", COMMIT):
            return self.answer(404, {"error": "Revision not found"}, "RevisionNotFound")
        data = files.get("/".join(path))
        if data is None:
            return self.answer(
                404, {"error": "Entry not found"}, "EntryNotFound", X_Repo_Commit=COMMIT
            )
        etag = hashlib.sha256(data).hexdigest()
        return self.answer(200, data, ETag=f'"{etag}"', X_Repo_Commit=COMMIT)

    def do_PUT(self) -> None:
        data = self.read()
        assert self.path == f"/large/{hashlib.sha256(data).hexdigest()}"
        self.server.large[self.path.rpartition("/")[2]] = data
        self.answer(200)

    def do_POST(self) -> None:
        body, path = self.read(), self.path.partition("?")[0]
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid username or password."})
        if path == "/api/validate-yaml":
            _, head, _ = json.loads(body)["content"].split("---\n", 2)
            wrong = _mistakes(yaml.safe_load(head))
            errors = [{"message": line} for line in wrong]
            return self.answer(400 if wrong else 200, {"errors": errors, "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            self.server.made.append(asked)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.server.repositories:
                said = {
                    "error": "You already created this repo",
                    "url": f"{self.server.url}/{name}",
                }
                return self.answer(409, said)
            self.server.repositories[name] = {}
            return self.answer(200, {"url": f"{self.server.url}/{name}"})
        if path.endswith("/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.server.url}/large/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return self.answer(200, {"transfer": "basic", "objects": objects})
        _, _, _, owner, name, what, _ = path.split("/")
        repository = self.server.repositories[f"{owner}/{name}"]
        if what == "preupload":
            files = [
                {
                    "path": one["path"],
                    "shouldIgnore": False,
                    "uploadMode": "lfs"
                    if self.server.lfs and one["path"].endswith("safetensors")
                    else "regular",
                }
                for one in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        assert what == "commit"
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                repository[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                repository[value["path"]] = self.server.large[value["oid"]]
        url = f"{self.server.url}/{owner}/{name}/commit/{COMMIT}"
        return self.answer(200, {"commitUrl": url, "commitOid": COMMIT})


def _mistakes(metadata: dict) -> list[str]:
    """What the hub's documents ask of a card's metadata."""
    wrong = []
    known = ("cc-by-4.0", "cc-by-nc-4.0", "mit", "apache-2.0", "cc0-1.0", "other", None)
    if metadata.get("license") not in known:
        wrong.append('"license" must be one of [...]')
    for model in metadata.get("model-index", []):
        for result in model["results"]:
            if not (result["task"]["type"] and result["dataset"]["type"]):
                wrong.append("model-index: task and dataset need a type")
            if not all(isinstance(one["value"], float) for one in result["metrics"]):
                wrong.append("model-index: a metric needs a value")
    return wrong
