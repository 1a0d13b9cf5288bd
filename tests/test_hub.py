"""`eqloop.load("hf://...")`, against a server on this machine with the Hub's endpoints."""

import hashlib
import http.server
import json
import logging
import shutil
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import eqloop
from eqloop import InputError

RELEASE = Path(__file__).resolve().parents[1] / "benchmarks" / "release"
FIRST, SECOND = "1" * 40, "2" * 40


class Mirror:
    """A repository `us/loops` with two commits; `main` is the second. Large files are sent by a
    redirection to another path, as the Hub does."""

    def __init__(self, root: Path):
        self.asked: list[str] = []
        self.commits = {FIRST: root / "first", SECOND: root / "second"}
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                mirror.answer(self)

            do_HEAD = do_GET

            def log_message(self, format, *args):
                del format, args

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.cdn = self.url.replace("127.0.0.1", "localhost")  # another host, as that of the Hub is
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(request.path).path)
        self.asked.append(f"{request.command} {path}")
        match path.strip("/").split("/"):
            case ["api", "models", "us", "loops", "revision", name]:
                if commit := self.commit(name):
                    return self.send(request, json.dumps({"id": "us/loops", "sha": commit}))
                return self.send(request, "", 404, {"X-Error-Code": "RevisionNotFound"})
            case ["api", "models", "us", "loops", "tree", name]:
                if commit := self.commit(name):
                    return self.send(request, json.dumps(self.tree(commit)))
                return self.send(request, "", 404, {"X-Error-Code": "RevisionNotFound"})
            case ["us", "loops", "resolve", name, *parts] if commit := self.commit(name):
                file = self.commits[commit].joinpath(*parts)
                content = file.read_bytes()
                headers = {"X-Repo-Commit": commit, "ETag": f'"{oid(content)}"'}
                if file.suffix == ".safetensors":
                    headers |= {"X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"'}
                    headers |= {"X-Linked-Size": str(len(content))}
                    headers |= {"Location": f"{self.cdn}/cdn/{commit}/{'/'.join(parts)}"}
                    return self.send(request, "", 302, headers)
                return self.send(request, content, 200, headers)
            case ["cdn", commit, *parts]:
                return self.send(request, self.commits[commit].joinpath(*parts).read_bytes())
        return self.send(request, "", 404, {"X-Error-Code": "RepoNotFound"})

    def commit(self, name: str) -> str | None:
        return {"main": SECOND, FIRST: FIRST, SECOND: SECOND}.get(name)

    def tree(self, commit: str) -> list[dict]:
        root = self.commits[commit]
        files = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        return [
            {"type": "file", "path": name, "size": len(content), "oid": oid(content)}
            for name, content in files.items()
        ]

    def send(self, request, content: str | bytes, status: int = 200, headers=None) -> None:
        body = content.encode() if isinstance(content, str) else content
        request.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)

    def bodies(self) -> list[str]:
        """The files that were sent."""
        return [line for line in self.asked if line.startswith(("GET /us", "GET /cdn"))]


def oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture
def mirror(tmp_path, monkeypatch) -> Iterator[Mirror]:
    constants = pytest.importorskip("huggingface_hub.constants")
    root = tmp_path / "repository"
    shutil.copytree(RELEASE / "prefix-sums", root / "first" / "runs" / "[bits] 1")
    shutil.copytree(RELEASE / "prefix-sums", root / "second")
    (root / "second" / "README.md").write_text("not needed\n")
    model = eqloop.LoopedTransformer((3, 3), 2, 5, width=8, heads=2, key=jr.key(0))
    eqloop.save(model, root / "second" / "model.safetensors")
    made = Mirror(root)
    monkeypatch.setattr(constants, "ENDPOINT", made.url)
    template = f"{made.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield made
    made.close()


def equal(first, second) -> bool:
    leaves = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(bool(jnp.array_equal(a, b)) for a, b in leaves)


def test_a_run_by_commit_is_that_of_the_disk(mirror, caplog, monkeypatch):
    wanted = eqloop.load(RELEASE / "prefix-sums")
    address = f"hf://us/loops/runs/[bits] 1@{FIRST}"
    loaded = eqloop.load(address)
    assert equal(loaded.model, wanted.model)
    assert loaded.spec == wanted.spec
    assert loaded.task.name == "prefix-sums"
    assert caplog.records == []
    sent = sorted(line.rpartition("/")[2] for line in mirror.bodies())
    (checkpoint,) = (RELEASE / "prefix-sums" / "checkpoints").glob("*.safetensors")
    assert sent == sorted(["best.json", "data.json", "spec.toml", checkpoint.name])
    # Once it is in the cache, nothing is sent again, with a network or without.
    eqloop.load(address)
    assert sorted(line.rpartition("/")[2] for line in mirror.bodies()) == sent
    mirror.close()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert equal(eqloop.load(address).model, wanted.model)


def test_a_branch_is_warned_of_with_its_commit(mirror, caplog):
    (checkpoint,) = (RELEASE / "prefix-sums" / "checkpoints").glob("*.safetensors")
    for address in ("hf://us/loops", "hf://us/loops@main"):
        caplog.clear()
        eqloop.load(address, "last")
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert f"{address}: its content can change" in record.message
        assert record.message.endswith(f"write @{SECOND}")
    caplog.clear()
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    eqloop.load("hf://us/loops", sha256=digest.upper())
    assert caplog.records == []
    with pytest.raises(InputError, match=f"has the SHA-256 {digest}, not 00"):
        eqloop.load("hf://us/loops", sha256="00")
    assert "GET /us/loops/resolve/README.md" not in " ".join(mirror.asked)


def test_one_file(mirror):
    path = mirror.commits[SECOND] / "model.safetensors"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    loaded = eqloop.load("hf://us/loops/model.safetensors", sha256=digest)
    assert equal(loaded, eqloop.load(path))
    assert len(mirror.bodies()) == 1
    with pytest.raises(InputError, match=r"model.safetensors has the SHA-256 .*, not x: do not"):
        eqloop.load(path, sha256="x")  # a file of the disk, too


def test_what_cannot_be_had_is_one_line(mirror, monkeypatch):
    for address, message in (
        ("hf://us/none", "cannot be had from the Hub"),
        ("hf://us/loops@v9", "cannot be had from the Hub"),
        ("hf://us/loops/runs/other@main", f"has no runs/other at commit {SECOND}"),
        ("hf://us", "must be hf://owner/repository/path@revision"),
        ("hf://us/loops@main/runs/x@y", "must be hf://owner/repository/path@revision"),
        ("hf://us/loops/../../etc@main", "must be hf://owner/repository/path@revision"),
        ("hf://us/loops@../../x", "must be hf://owner/repository/path@revision"),
        ("hf://us/loops/\n@main", "must be hf"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            eqloop.load(address)
        assert "\n" not in str(caught.value)
    damaged = next(mirror.commits[SECOND].rglob("step-*.safetensors"))
    content = bytearray(damaged.read_bytes())
    content[-5] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(InputError, match="its SHA-256 does not fit its content"):
        eqloop.load(f"hf://us/loops@{SECOND}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="cannot be had from the Hub"):
        eqloop.load(f"hf://us/loops/runs/[bits] 1@{FIRST}")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install huggingface_hub"):
        eqloop.load("hf://us/loops")
