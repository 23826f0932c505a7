"""A stand-in for W&B on the loopback interface: it takes what the real client sends, and gives artifacts back."""

import base64
import gzip
import json
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0" * 40
ENTITY = "someone"


class StandIn(ThreadingHTTPServer):
    """Answers what the client needs of GraphQL, the file stream and the store of files.

    Attributes:
        asked: operation of GraphQL -> variables of each request.
        stream: file of a run -> its lines, as JSON.
        store: path -> content of an uploaded file.
        artifacts: id -> what it was created with.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.stream: dict[str, list[Any]] = defaultdict(list)
        self.store: dict[str, bytes] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def requests(self) -> int:
        return sum(map(len, self.asked.values()))

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            self.asked[operation].append(given)
            return getattr(self, f"answer_{operation}", lambda _: {})(given)

    def answer_Viewer(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {"id": "u", "entity": ENTITY, "username": ENTITY, "flags": "{}", "teams": {"edges": []}}}

    def answer_RunResumeStatus(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"model": {"id": "p", "name": given["project"], "entity": {"id": "e", "name": ENTITY}, "bucket": None}}

    def answer_UpsertBucket(self, given: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "p", "name": given["project"], "entity": {"id": "e", "name": ENTITY}}
        bucket = {"id": "r", "name": given["name"], "displayName": given["displayName"], "config": given["config"]}
        return {"upsertBucket": {"bucket": {**bucket, "project": project, "historyLineCount": 0}, "inserted": True}}

    def answer_CreateRunFiles(self, given: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/store/{given['run']}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}

    def answer_NotifyScriptableRunAlert(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"notifyScriptableRunAlert": {"success": True}}

    def answer_ServerFeaturesQuery(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def answer_ArtifactType(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifact": None}}

    def answer_CreateArtifact(self, given: dict[str, Any]) -> dict[str, Any]:
        made = given["input"]
        key = base64.b64encode(f"Artifact:{len(self.artifacts)}".encode()).decode()
        aliases = {each["alias"] for each in made["aliases"]}
        name = made["artifactCollectionName"]
        earlier = [other for other in self.artifacts.values() if other["name"] == name]
        for other in earlier:
            other["aliases"] -= aliases
        self.artifacts[key] = {**made, "name": name, "aliases": aliases, "version": len(earlier)}
        sequence = {"id": "s", "latestArtifact": None}
        return {"createArtifact": {"artifact": {"id": key, "state": "PENDING", "artifactSequence": sequence}}}

    def answer_CreateArtifactManifest(self, given: dict[str, Any]) -> dict[str, Any]:
        file = {"id": "f", "uploadUrl": f"{self.url}/store/{given['artifactID']}/manifest.json", "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}

    def answer_CreateArtifactFiles(self, given: dict[str, Any]) -> dict[str, Any]:
        nodes = []
        for file in given["input"]["artifactFiles"]:
            digest = base64.b64decode(file["md5"]).hex()
            place = {"storagePath": digest, "uploadUrl": f"{self.url}/store/{digest}", "uploadHeaders": []}
            nodes.append({"node": {**place, "uploadMultipartUrls": None, "artifact": {"id": file["artifactID"]}}})
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def answer_CommitArtifact(self, given: dict[str, Any]) -> dict[str, Any]:
        key = given["artifactID"]
        return {"commitArtifact": {"artifact": {"id": key, "digest": self.artifacts[key]["digest"]}}}

    def answer_GetProjects(self, given: dict[str, Any]) -> dict[str, Any]:
        project = {"__typename": "Project", "id": "p", "name": "sspir", "entityName": given["entity"], "user": None}
        project |= {"createdAt": "2026-01-01T00:00:00Z", "isBenchmark": False}
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"pageInfo": page, "edges": [{"node": project}]}}

    def answer_upsertView(self, given: dict[str, Any]) -> dict[str, Any]:
        view = {key: given[key] for key in ("type", "name", "displayName", "description", "spec")}
        project = {"id": "p", "name": given["projectName"], "entityName": given["entityName"]}
        return {"upsertView": {"view": {"id": "Vmlldw", **view, "project": project}, "inserted": True}}

    def answer_UpsertView2(self, given: dict[str, Any]) -> dict[str, Any]:
        return self.answer_upsertView(given)

    def find(self, name: str, alias: str) -> str | None:
        """The id of a version of an artifact."""
        made = {key: one for key, one in self.artifacts.items() if one["name"] == name}
        return next((key for key, one in made.items() if alias in {*one["aliases"], f"v{one['version']}"}), None)

    def answer_GetDefaultEntity(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {"id": "u", "entity": ENTITY}}

    def answer_ArtifactMembershipByName(self, given: dict[str, Any]) -> dict[str, Any]:
        name, _, alias = given["name"].partition(":")
        key = self.find(name, alias)
        if key is None:
            return {"project": {"artifactCollectionMembership": None}}
        made = self.artifacts[key]
        project = {"id": "p", "internalId": "cDox", "name": given["project"], "entity": {"name": given["entity"]}}
        collection = {"__typename": "ArtifactSequence", "name": name, "project": project}
        artifact = {
            "__typename": "Artifact", "id": key, "artifactSequence": collection, "versionIndex": made["version"],
            "artifactType": {"name": made["artifactTypeName"]}, "description": made["description"], "metadata": "{}",
            "ttlDurationSeconds": -2, "ttlIsInherited": False, "tags": [], "historyStep": None, "state": "COMMITTED",
            "size": 1, "digest": made["digest"], "digestAlgorithm": "MANIFEST_MD5", "commitHash": "c", "fileCount": 1,
            "createdAt": "2026-01-01T00:00:00Z", "updatedAt": None, "aliases": [],
        }  # fmt: skip
        membership = {"__typename": "ArtifactCollectionMembership", "id": "m", "versionIndex": made["version"]}
        membership |= {"createdAt": "2026-01-01T00:00:00Z", "aliases": [], "artifactCollection": collection}
        return {"project": {"artifactCollectionMembership": {**membership, "artifact": artifact}}}

    def answer_FetchArtifactManifest(self, given: dict[str, Any]) -> dict[str, Any]:
        return {
            "artifact": {"currentManifest": {"file": {"directUrl": f"{self.url}/store/{given['id']}/manifest.json"}}}
        }

    def answer_GetArtifactMembershipFileUrls(self, given: dict[str, Any]) -> dict[str, Any]:
        manifest = json.loads(self.store[f"{self.find(given['collection'], given['alias'])}/manifest.json"])
        digests = {name: base64.b64decode(entry["digest"]).hex() for name, entry in manifest["contents"].items()}
        nodes = [
            {"node": {"__typename": "File", "name": name, "directUrl": f"{self.url}/store/{digest}"}}
            for name, digest in digests.items()
        ]
        files = {"pageInfo": {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}, "edges": nodes}
        collection = {"__typename": "ArtifactSequence", "artifactMembership": {"files": files}}
        return {"project": {"artifactCollection": collection}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandIn

    def log_message(self, *_: Any) -> None:
        pass

    def body(self) -> bytes:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

    def reply(self, data: bytes | dict[str, Any], status: int = 200) -> None:
        content = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        body = self.body()
        if self.path == "/graphql":
            asked = json.loads(body)
            operation = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])[1]
            return self.reply({"data": self.server.answer(operation, asked.get("variables") or {})})
        if self.path.endswith("/file_stream"):
            for name, part in (json.loads(body).get("files") or {}).items():
                self.server.stream[name] += part["content"]
        return self.reply({})

    def do_PUT(self) -> None:
        self.server.store[self.path.removeprefix("/store/")] = self.body()
        self.reply(b"")

    def do_GET(self) -> None:
        found = self.server.store.get(self.path.removeprefix("/store/"))
        self.reply(found or b"", 200 if found is not None else 404)


@contextmanager
def serving(kind: type[StandIn] = StandIn) -> Iterator[StandIn]:
    """A stand-in that answers within."""
    with kind() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
