"""Fetching a model from a hub that is a small server here: what is asked for, what a broken line leaves, how it goes on."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import tiny_sdxl

ROOT = Path(__file__).parents[2]
NAME, COMMIT = "somebody/a-model", "0123456789" * 4
LARGE = "unet/diffusion_pytorch_model.safetensors"


class Hub:
    """Serves the files of a folder as a model of a hub; `broken` closes the line in the middle of the U-Net."""

    def __init__(self, folder: Path) -> None:
        self.files = {
            file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()
        }
        self.broken = False
        self.asked: list[tuple[str, str]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def log_message(self, *args: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request: Any, body: bool) -> None:
        if request.path.startswith(f"/api/models/{NAME}"):
            siblings = [{"rfilename": name, "size": len(data)} for name, data in self.files.items()]
            self.send(request, 200, json.dumps({"id": NAME, "sha": COMMIT, "siblings": siblings}).encode())
            return
        name = request.path.partition(f"/{NAME}/resolve/{COMMIT}/")[2]
        data = self.files.get(name)
        if data is None:
            self.send(request, 404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        whole = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        wanted = request.headers.get("Range", "") if body else ""
        if body:
            self.asked.append((name, wanted))
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        if wanted:
            whole["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if body and self.broken and name == LARGE:
            if start:
                self.send(request, 500, b"")
            else:
                self.send(request, 200, data, whole, cut=len(data) // 2)
            return
        self.send(request, 206 if wanted else 200, data[start:], whole, cut=None if body else 0)

    @staticmethod
    def send(
        request: Any, status: int, data: bytes, headers: dict[str, str] | None = None, cut: int | None = None
    ) -> None:
        request.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            request.send_header(key, value)
        request.end_headers()
        request.wfile.write(data[:cut])
        request.wfile.flush()
        request.close_connection = True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sdxl(tmp_path_factory.mktemp("there"))


@pytest.fixture
def hub(folder: Path) -> Iterator[Hub]:
    found = Hub(folder)
    yield found
    found.server.shutdown()
    found.server.server_close()


CODE = """
import json, sys
import huggingface_hub.constants
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 4096
from trainer.models.hub import download
from trainer.models.identify import identify_folder
from trainer.report import Failure

class Told:
    phases, notes = [], []
    def phase(self, *args): self.phases.append(args)
    def note(self, text, *args, **more): self.notes.append(text)

told = Told()
try:
    folder = download(sys.argv[1], told)
    result = {"folder": str(folder), "family": identify_folder("x", folder).family, "problem": identify_folder("x", folder).problem}
except Failure as failure:
    result = {"reason": failure.reason, "advice": failure.advice}
print(json.dumps({**result, "phases": told.phases, "notes": told.notes}))
"""


def fetch(hub: Hub, home: Path, **more: str) -> dict[str, Any]:
    """Download in a process of its own: the library reads the hub's address when it is loaded."""
    env = os.environ | {"HF_ENDPOINT": hub.address, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
                        "LOOM_WORKSPACE": str(home / "workspace"), "NO_PROXY": "127.0.0.1", **more}  # fmt: skip
    command = [sys.executable, "-c", CODE, NAME]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=120)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_a_broken_download_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    hub.broken = True
    first = fetch(hub, tmp_path)
    assert first["reason"] == f"{NAME} could not be downloaded: the model hub cannot be reached."
    assert "(what has arrived is kept)" in first["advice"]
    total = first["phases"][-1][2]
    assert 0 < first["phases"][-1][1] < total
    assert first["notes"] == [
        f"Downloading {NAME}: {total / 1e6:.1f} MB, kept for later runs. If it breaks off, it goes on there."
    ]

    hub.broken, hub.asked = False, []
    second = fetch(hub, tmp_path)
    assert (second["family"], second["problem"]) == ("sdxl", None)
    (wanted,) = (range_ for name, range_ in hub.asked if name == LARGE)
    half = len(hub.files[LARGE]) // 2
    start = int(wanted.removeprefix("bytes=").removesuffix("-"))
    assert half - 4096 <= start <= half  # what had arrived was not asked for again
    assert not [name for name, _ in hub.asked if name == "model_index.json"]
    assert second["phases"][-1] == ["downloading model", total, total]

    hub.asked = []
    third = fetch(hub, tmp_path, HF_HUB_OFFLINE="1")
    assert third["folder"] == second["folder"]
    assert (third["phases"], hub.asked) == ([], []), "what is here is used without a connection"
    amounts = [phase[1] for phase in second["phases"] if len(phase) == 3]
    assert amounts == sorted(amounts)
    assert (Path(second["folder"]) / LARGE).read_bytes() == hub.files[LARGE]

    hub.asked = []
    third = fetch(hub, tmp_path)
    assert third["folder"] == second["folder"]
    assert hub.asked == []


def test_what_arrives_damaged_is_fetched_anew(hub: Hub, tmp_path: Path) -> None:
    hub.broken = True
    fetch(hub, tmp_path)
    (partial,) = tmp_path.rglob("*.part")
    data = bytearray(partial.read_bytes())
    data[1000] ^= 1
    partial.write_bytes(data)
    hub.broken = False
    assert "could not be downloaded" in fetch(hub, tmp_path)["reason"]
    assert fetch(hub, tmp_path)["problem"] is None


def test_both_text_encoders_of_xl_are_fetched_and_nothing_else(hub: Hub, tmp_path: Path) -> None:
    hub.files |= {"sd_xl_base_1.0.safetensors": b"x" * 100, "README.md": b"hello", "unet/model.onnx": b"x"}
    assert fetch(hub, tmp_path)["problem"] is None
    names = {name for name, _ in hub.asked}
    assert {"text_encoder/model.safetensors", "text_encoder_2/model.safetensors", "text_encoder_2/config.json"} <= names
    assert not names & {"sd_xl_base_1.0.safetensors", "README.md", "unet/model.onnx"}
