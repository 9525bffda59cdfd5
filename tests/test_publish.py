"""Saved files reach a hub, which is a small server here; when it refuses or is away, the training goes on and says so."""

import base64
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests import trainings
from tests.tiny import tiny_sd15
from trainer import events, publish
from trainer.events import Note
from trainer.publish import Address, address
from trainer.settings import Settings

ROOT = Path(__file__).parents[1]
REPO, COMMIT, TOKEN = "somebody/my-lora", "0123456789" * 4, "hf_SecretSecret"


class Hub:
    """Keeps what is committed to it. `refuses` answers every upload with that status until it was asked `times` times."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.tokens: set[str] = set()
        self.refuses, self.times = 0, 1000
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.get(self)

            def do_HEAD(self) -> None:
                hub.get(self)

            def do_POST(self) -> None:
                hub.post(self)

            def log_message(self, *args: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def get(self, request: Any) -> None:
        place = request.path.partition("?")[0]
        resolved = f"/{REPO}/resolve/{COMMIT}/"
        if place.startswith(resolved) and place.removeprefix(resolved) in self.files:
            data = self.files[place.removeprefix(resolved)]
            headers = {"ETag": '"' + "a" * 40 + place[-12:].encode().hex() + '"', "X-Repo-Commit": COMMIT}
            answer(request, 200, data, headers)
        elif place.startswith(f"/api/models/{REPO}") and REPO in self.repos:
            siblings = [{"rfilename": name, "size": len(data)} for name, data in self.files.items()]
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": "a" * 40} for name, data in self.files.items()
            ]
            told: Any = tree if "/tree/" in place else {"id": REPO, "sha": COMMIT, "siblings": siblings}
            answer(request, 200, json.dumps(told).encode())
        else:
            answer(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def post(self, request: Any) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        self.tokens.add(request.headers.get("Authorization", ""))
        if self.refuses and self.times > 0:
            self.times -= 1
            answer(request, self.refuses, b'{"error": "no"}')
        elif request.path == "/api/repos/create":
            about = json.loads(body)
            self.repos[f"{about.get('organization', 'somebody')}/{about['name']}"] = about
            answer(request, 200, json.dumps({"url": f"{self.address}/{REPO}"}).encode())
        elif "/preupload/" in request.path:
            wanted = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for file in json.loads(body)["files"]
            ]
            answer(request, 200, json.dumps({"files": wanted}).encode())
        else:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            told = {"commitUrl": f"{self.address}/{REPO}/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
            answer(request, 200, json.dumps(told).encode())


def answer(request: Any, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
    request.send_response(status)
    for key, value in {"Content-Length": str(len(data)), "Content-Type": "application/json", **(headers or {})}.items():
        request.send_header(key, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(data)
    request.close_connection = True


@pytest.fixture
def hub() -> Iterator[Hub]:
    found = Hub()
    yield found
    found.server.shutdown()
    found.server.server_close()


TRAIN = """
import sys, json
from pathlib import Path
from trainer.settings import Settings
from trainer.execution import prepare_surroundings
folder, values = Path(sys.argv[1]), json.loads(sys.argv[2])
prepare_surroundings(1)
from trainer.report import Reporter
from trainer.train import train
with Reporter(folder, "train", "small") as report:
    train(Settings(**values), report)
"""

UPLOAD = """
import sys, json
from pathlib import Path
from trainer.publish import Publisher
from trainer.report import Reporter
from trainer.settings import Settings
folder, values = Path(sys.argv[1]), json.loads(sys.argv[2])
with Reporter(folder, "train", "small") as report, Publisher(Settings(**values), report) as publisher:
    for path in sys.argv[3:]:
        publisher.publish(Path(path), "weights")
assert "torch" not in sys.modules
"""


def run(code: str, s: Settings, folder: Path, endpoint: str, *words: str, **more: str) -> list[str]:
    """Do this in a process of its own, as the library reads the hub's address when it is loaded; returns the notes."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    env = kept | {
        "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", "LOOM_WORKSPACE": str(folder / "workspace"), "NO_PROXY": "127.0.0.1",
        "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more,
    }  # fmt: skip
    command = [sys.executable, "-c", code, str(folder), json.dumps(s.model_dump()), *words]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert TOKEN not in done.stdout + done.stderr
    return [event.text for event in events.read(folder / "events.jsonl")[0] if isinstance(event, Note)]


@pytest.fixture
def s(tmp_path: Path) -> Settings:
    """Four steps and a file after each; those of the last step and of the one before are kept."""
    model, data = tiny_sd15(tmp_path / "model"), trainings.make_pictures(tmp_path / "data")
    return trainings.settings(
        model, data, tmp_path / "out", max_train_steps=4, save_every_n_steps=1, save_last_n_steps=1,
        save_state_on_train_end=True, huggingface_repo_id=REPO,
    )  # fmt: skip


def secret_files(*folders: Path) -> list[Path]:
    """Files that hold the token."""
    return [
        file
        for folder in folders
        for file in folder.rglob("*")
        if file.is_file() and TOKEN.encode() in file.read_bytes()
    ]


def test_every_saved_file_of_a_run_is_uploaded_whole(hub: Hub, s: Settings, tmp_path: Path) -> None:
    wanted = s.changed(huggingface_path_in_repo="v1", save_state_to_huggingface=True, async_upload=True)
    notes = run(TRAIN, wanted, tmp_path / "run", hub.address, HF_TOKEN=TOKEN)
    weights = ["v1/small.safetensors", *(f"v1/small-step0000000{step}.safetensors" for step in (1, 2, 3))]
    state = [f"v1/small-state/{name}" for name in ("model.safetensors", "optimizer.bin", "train_state.json")]
    assert sorted(hub.files) == sorted(weights + state)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "small-state", "small-step00000002.safetensors", "small-step00000003.safetensors", "small.safetensors",
    ]  # fmt: skip
    assert hub.files["v1/small.safetensors"] == (tmp_path / "out" / "small.safetensors").read_bytes()
    assert hub.repos[REPO]["visibility"] == "private"
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert f"Uploaded v1/small.safetensors to {REPO}." in notes
    assert secret_files(tmp_path) == []


def test_a_state_of_the_hub_is_gone_on_from(hub: Hub, s: Settings, tmp_path: Path) -> None:
    half = s.changed(max_train_steps=1, save_state_to_huggingface=True, huggingface_repo_visibility="public")
    run(TRAIN, half.changed(huggingface_token=TOKEN), tmp_path / "run", hub.address)
    assert hub.repos[REPO]["visibility"] == "public"
    assert hub.tokens == {f"Bearer {TOKEN}"}
    more = s.changed(resume_from_huggingface=f"{REPO}/small-state", huggingface_repo_id="", overwrite_output=True)
    notes = run(TRAIN, more, tmp_path / "again", hub.address)
    assert "Goes on after step 1, from small-state." in notes
    assert secret_files(tmp_path) == []


# What the hub may do.


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Two saved files."""
    paths = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for path in paths:
        path.write_bytes(path.name.encode())
    return list(map(str, paths))


@pytest.mark.parametrize(
    ("status", "said"), [(401, "does not accept the token"), (403, "no right to write there"), (418, "418")]
)
@pytest.mark.parametrize("in_background", [True, False])
def test_a_hub_that_refuses_is_said(
    hub: Hub, files: list[str], tmp_path: Path, status: int, said: str, in_background: bool
) -> None:
    hub.refuses = status
    s = Settings(huggingface_repo_id=REPO, async_upload=in_background, huggingface_token=TOKEN)
    notes = run(UPLOAD, s, tmp_path / "run", hub.address, *files)
    assert [note.partition(" ")[0] for note in notes] == ["one.safetensors", "two.safetensors", "one.safetensors"]
    assert all("could not be uploaded: " in note and said in note for note in notes)
    assert [note.endswith("tried once more at the end.") for note in notes] == [True, True, False]
    assert notes[-1].endswith("It is kept here.")
    assert hub.files == {}


def test_what_failed_once_is_tried_again_at_the_end(hub: Hub, files: list[str], tmp_path: Path) -> None:
    hub.refuses, hub.times = 403, 1
    s = Settings(huggingface_repo_id=REPO)
    notes = run(UPLOAD, s, tmp_path / "run", hub.address, *files, HF_TOKEN=TOKEN)
    assert [note.partition(":")[0] for note in notes] == [
        "one.safetensors could not be uploaded", f"Uploaded two.safetensors to {REPO}.",
        f"Uploaded one.safetensors to {REPO}.",
    ]  # fmt: skip
    assert hub.files == {"one.safetensors": b"one.safetensors", "two.safetensors": b"two.safetensors"}


def test_nobody_at_the_address(files: list[str], tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    s = Settings(huggingface_repo_id=REPO, async_upload=True)
    notes = run(UPLOAD, s, tmp_path / "run", endpoint, files[0], HF_TOKEN=TOKEN)
    assert len(notes) == 2
    assert all("one.safetensors could not be uploaded: the hub cannot be reached." in note for note in notes)


def test_a_file_that_was_removed_is_said(hub: Hub, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.safetensors")
    notes = run(UPLOAD, Settings(huggingface_repo_id=REPO), tmp_path / "run", hub.address, gone, HF_TOKEN=TOKEN)
    assert len(notes) == 1
    assert "gone.safetensors could not be uploaded" in notes[0]


def test_without_a_repository_nothing_is_asked_for(hub: Hub, files: list[str], tmp_path: Path) -> None:
    assert run(UPLOAD, Settings(), tmp_path / "run", hub.address, *files, HF_TOKEN=TOKEN) == []
    assert (hub.repos, hub.files, hub.tokens) == ({}, {}, set())


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("me/lora/a-state", Address("me/lora", "a-state", "main", "model")),
        (" me/lora/x/a-state/ ", Address("me/lora", "x/a-state", "main", "model")),
        ("me/lora/a-state:v2", Address("me/lora", "a-state", "v2", "model")),
        ("me/lora/a-state:v2:dataset", Address("me/lora", "a-state", "v2", "dataset")),
        ("me/lora/a-state::space", Address("me/lora", "a-state", "main", "space")),
    ],
)
def test_addresses(text: str, meant: Address) -> None:
    assert address(text) == meant


@pytest.mark.parametrize("text", ["me/lora", "state", "me//state", "me/lora/../x", "me/lora/x:main:folder"])
def test_what_is_no_address_is_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"is written as|the type is"):
        address(text)


def test_the_token_is_in_no_sentence() -> None:
    error = RuntimeError(f"bad header: Bearer {TOKEN}")
    assert publish.why(error, Settings(huggingface_token=TOKEN)) == "bad header: Bearer …."
