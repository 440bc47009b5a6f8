"""task=export hub=OWNER/NAME against a stand-in of the hub's HTTP interface."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest

from rmexp.core.errors import UserError
from rmexp.inference import hub
from tests.conftest import result

# Of huggingface_hub, which uploads with a deprecated argument of its HTTP client.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>'")

REPO = "me/reward"


class StandIn(BaseHTTPRequestHandler):
    """Answers what a push asks: who, create, list, validate, preupload, LFS batch, upload, commit.

    `server.files` is the repository by name, None before it is created; `server.status` refuses a
    request whose path has the key with its value.
    """

    def log_message(self, *_):
        """Nothing."""

    def answer(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        return self.rfile.read(int(self.headers["Content-Length"] or 0))

    def refused(self):
        self.server.asked.append((self.command, self.path))
        status = next((s for part, s in self.server.status.items() if part in self.path), None)
        if status is not None:
            self.body() if self.command != "GET" else None
            self.answer({"error": "no"}, status)
        return status is not None

    def do_GET(self):
        if self.refused():
            return
        if self.path == "/api/whoami-v2":
            assert self.headers["authorization"] == "Bearer hf_secret"
            self.answer({"name": "me", "type": "user"})
        else:
            assert self.path.startswith(f"/api/models/{REPO}/tree/main")
            self.answer(
                [{"type": "file", "path": n, "size": len(c), "oid": "0"} for n, c in self.files()]
            )

    def files(self):
        return sorted(self.server.files.items())

    def do_PUT(self):
        content = self.body()
        self.server.blobs[hashlib.sha256(content).hexdigest()] = content
        self.answer({})

    def do_POST(self):
        if self.refused():
            return
        server, content = self.server, self.body()
        if self.path == "/api/repos/create":
            asked = json.loads(content)
            server.created.append(asked)
            taken = server.files is not None
            server.files = server.files or {".gitattributes": b""}
            self.answer({"url": f"{server.url}/{REPO}"}, 409 if taken else 200)
        elif self.path == "/api/validate-yaml":
            assert json.loads(content)["content"].startswith("---\n")
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            modes = [
                {"path": one["path"], "uploadMode": mode(one["path"]), "shouldIgnore": False}
                for one in json.loads(content)["files"]
            ]
            self.answer({"files": modes})
        elif self.path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{server.url}/upload/{one['oid']}"}}}
                for one in json.loads(content)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": objects})
        else:
            assert self.path.startswith(f"/api/models/{REPO}/commit/main")
            for line in map(json.loads, content.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    server.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    server.files[value["path"]] = server.blobs[value["oid"]]
                elif line["key"] == "deletedFile":
                    del server.files[value["path"]]
            self.answer(
                {
                    "success": True,
                    "commitOid": "0" * 40,
                    "commitUrl": f"{server.url}/{REPO}/commit/x",
                }
            )


def mode(name):
    return "lfs" if name.endswith((".safetensors", "tokenizer.json")) else "regular"


@pytest.fixture
def server(monkeypatch):
    """The stand-in, which huggingface_hub takes for the hub."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.files, server.blobs, server.created, server.asked, server.status = None, {}, [], [], {}
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", server.url)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path):
    """A directory with what matters of an export."""
    home = tmp_path / "export"
    home.mkdir()
    for name, text in {
        "README.md": "---\ntags: [rmexp]\n---\n# m\n",
        "config.json": "{}",
        "model.safetensors": "weights",
        "rmexp.json": "{}",
    }.items():
        (home / name).write_text(text)
    return home


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_push_creates_a_private_repository_with_the_files(server, folder):
    assert hub.push(folder, REPO, private=True) == f"{server.url}/{REPO}"
    assert server.files == contents(folder) | {".gitattributes": b""}
    assert [one["name"] for one in server.created] == ["reward"]
    assert server.created[0].get("visibility", server.created[0].get("private")) in (
        "private",
        True,
    )


def test_a_second_push_replaces_the_weights_of_the_first(server, folder):
    server.files = {
        ".gitattributes": b"", "rmexp.json": b"{}", "figure.png": b"mine",
        "model-00001-of-00002.safetensors": b"old", "model.safetensors.index.json": b"{}",
    }  # fmt: skip
    hub.push(folder, REPO, private=True)
    assert server.files == contents(folder) | {".gitattributes": b"", "figure.png": b"mine"}


def test_a_push_that_was_interrupted_is_repeated(server, folder):
    server.files = {".gitattributes": b""}  # created, and no more
    hub.push(folder, REPO, private=True)
    assert "model.safetensors" in server.files


def test_a_repository_with_something_else_is_left_alone(server, folder):
    server.files = {"config.json": b"{}", "model.safetensors": b"another model"}
    with pytest.raises(UserError, match=f"hub={REPO} exists and is no export of rmexp"):
        hub.push(folder, REPO, private=True)
    assert server.files["model.safetensors"] == b"another model"


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/api/repos/create", 401, "the hub does not take the token"),
        ("/api/repos/create", 403, "the token may not write there"),
        ("/commit/", 409, "something else is writing to it"),
        ("/preupload/", 404, "the hub does not find it"),
        (".git/info/lfs", 413, "the hub refuses files of this size"),
        ("/commit/", 422, "the hub answers 422"),
    ],
)
def test_a_refusal_is_one_sentence(server, folder, path, status, message):
    server.status = {path: status}
    with pytest.raises(UserError, match=f"^hub={REPO}: {message}") as caught:
        hub.push(folder, REPO, private=True)
    assert "\n" not in str(caught.value)


def test_login_is_checked_before_anything_is_computed(server, monkeypatch):
    hub.check_login(REPO)
    server.status = {"whoami": 401}
    with pytest.raises(UserError, match="the hub does not take the token"):
        hub.check_login(REPO)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE=1 forbids the network"):
        hub.check_login(REPO)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="does not answer"):
        hub.check_login(REPO)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(UserError, match="needs a token: `hf auth login`, or set HF_TOKEN"):
        hub.check_login(REPO)


@pytest.mark.parametrize("name", ["reward", "a/b/c", "me/re ward", "me/-x-"])
def test_a_name_that_no_repository_can_have_is_refused(name):
    with pytest.raises(UserError, match=f"^hub={re.escape(name)}: "):
        hub.check_hub_id(name)


# ------------------------------------------------------------------ the command
@pytest.mark.slow
def test_the_command_pushes_an_export_that_is_there(rmexp, server, folder):
    done = rmexp("task=export", f"checkpoint={folder}", f"hub={REPO}")
    assert server.files == contents(folder) | {".gitattributes": b""}
    size = sum(map(len, contents(folder).values()))
    assert f"pushed 4 files, {size:,} bytes to {server.url}/{REPO}" in done.stdout
    assert result(rmexp.runs()[-1])["status"] == "done"


@pytest.mark.slow
def test_a_dry_run_lists_the_files_and_asks_nobody(rmexp, server, folder):
    words = ("task=export", f"checkpoint={folder}", f"hub={REPO}", "task.dry_run=true")
    done = rmexp(*words, "task.private=false")
    assert "dry run: me/reward (new repositories: public) would get 4 files" in done.stdout
    for name, content in contents(folder).items():
        assert re.search(rf"^ +{len(content)}  {re.escape(name)}$", done.stdout, re.MULTILINE)
    assert (server.asked, server.files) == ([], None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "task=export needs out=DIRECTORY or hub=OWNER/NAME."),
        (["out=x", "task.dry_run=true"], "task.dry_run lists what would be pushed: add hub="),
        (["hub=reward"], "hub=reward: write OWNER/NAME"),
    ],
)
def test_a_wrong_command_is_one_sentence(rmexp, folder, words, message):
    done = rmexp("task=export", f"checkpoint={folder}", *words, check=False)
    assert done.returncode == 1
    assert message in done.stderr + done.stdout


def test_a_directory_that_is_no_export_is_exported_first(rmexp, folder):
    (folder / "rmexp.json").unlink()
    done = rmexp(
        "task=export", f"checkpoint={folder}", f"hub={REPO}", "task.dry_run=true", check=False
    )
    assert "is no export of rmexp: export it first, out=DIRECTORY." in done.stderr
