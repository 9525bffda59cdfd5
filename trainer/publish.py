"""Giving saved files to the hub while the run goes on. What fails there is said, and never stops the training."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from trainer.report import Failure

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from trainer.report import Reporter
    from trainer.settings import Settings

KEY = "huggingface_repo_id"
STATES_KEY = "resume_from_huggingface"


class Publisher:
    """Uploads the files of one run, one after the other; in the background if "Async upload" is on.

    Use it as a context: at its end it waits for what is under way, and tries once more what failed.
    """

    def __init__(self, s: Settings, report: Reporter) -> None:
        """Without a Huggingface repo id it does nothing."""
        self.s, self.report = s, report
        self.on = bool(s.huggingface_repo_id.strip())
        self._worker = ThreadPoolExecutor(1, "upload") if self.on else None
        self._waiting: set[Path] = set()
        self._failed: dict[Path, None] = {}
        self._lock = threading.Lock()
        self._made: HfApi | None = None
        self._last = False

    def publish(self, path: Path, what: str) -> None:
        """Upload a file ("weights"), or a state's folder if "Save state to huggingface" is on."""
        if self._worker is None or (what == "state" and not self.s.save_state_to_huggingface):
            return
        with self._lock:
            self._waiting.add(path)
            self._failed.pop(path, None)
        done = self._worker.submit(self._upload, path)
        if not self.s.async_upload:
            self._wait_for(done)

    def is_waiting(self, path: Path) -> bool:
        """Whether `path` is still to be uploaded, so that it must not be removed yet."""
        with self._lock:
            return path in self._waiting

    def close(self) -> None:
        """Wait until everything is uploaded; what failed is tried once more."""
        if self._worker is None:
            return
        self._wait_for(self._worker.submit(lambda: None))
        self._last = True
        for path in [path for path in self._failed if path.exists()]:
            self._wait_for(self._worker.submit(self._upload, path))
            if path in self._failed:  # the hub is as it was; the others would wait as long for nothing
                break
        self._worker.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._worker is not None and kind is KeyboardInterrupt:
            self._worker.shutdown(wait=False, cancel_futures=True)
        else:
            self.close()

    def _wait_for(self, done: Future[None]) -> None:
        if not done.done():
            self.report.phase("uploading")
        done.result()

    def _upload(self, path: Path) -> None:
        try:
            place = self._send(path)
        except Exception as error:  # whatever the network, the hub or its library raise: the training goes on
            self._failed[path] = None
            kept = "It is kept here." if self._last else "The training goes on, and it is tried once more at the end."
            self.report.note(f"{path.name} could not be uploaded: {why(error, self.s)} {kept}", "warning", KEY)
        else:
            self._failed.pop(path, None)
            self.report.note(f"Uploaded {place} to {self.s.huggingface_repo_id.strip()}.", key=KEY)
        finally:
            with self._lock:
                self._waiting.discard(path)

    def _send(self, path: Path) -> str:
        api, name = self._api(), "/".join(filter(None, (self.s.huggingface_path_in_repo.strip(" /"), path.name)))
        send: Callable[..., Any] = api.upload_file
        what: dict[str, Any] = {"path_or_fileobj": str(path)}
        if path.is_dir():
            send, what = api.upload_folder, {"folder_path": str(path)}
        send(
            **what,
            path_in_repo=name,
            repo_id=self.s.huggingface_repo_id.strip(),
            repo_type=self.s.huggingface_repo_type or "model",
            commit_message=f"Upload {path.name}",
        )
        return name

    def _api(self) -> HfApi:
        """The hub, with the repository, made if need be; as in Kohya's scripts it is public only by request."""
        if self._made is None:
            from huggingface_hub import HfApi

            # Without a token of its own it takes HF_TOKEN, or what `hf auth login` stored.
            api = HfApi(token=self.s.huggingface_token.strip() or None)
            repo, kind = self.s.huggingface_repo_id.strip(), self.s.huggingface_repo_type or "model"
            private = self.s.huggingface_repo_visibility != "public"
            if not api.repo_exists(repo, repo_type=kind):
                api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)
            self._made = api
        return self._made


def why(error: Exception, s: Settings) -> str:
    """What went wrong at the hub as a sentence, without the token."""
    from huggingface_hub import get_token

    response = getattr(error, "response", None)
    code = getattr(response, "status_code", None)
    if code in SENTENCES:
        return SENTENCES[code]
    if code is None and any(name in type(error).__name__ for name in ("Connect", "Timeout", "Network")):
        return "the hub cannot be reached."
    if type(error).__name__ == "OfflineModeIsEnabled":
        return "the hub may not be asked, because the variable HF_HUB_OFFLINE is set."
    words = (str(error).strip().splitlines() or [type(error).__name__])[0]
    for token in filter(None, (s.huggingface_token.strip(), get_token())):
        words = words.replace(token, "…")
    return f"{words.rstrip('.')}."


SENTENCES = {
    401: "the hub does not accept the token; make a new one with the right to write.",
    403: "the token has no right to write there; give it that right, or choose another repository.",
    404: "the hub has no such repository; check the Huggingface repo id.",
    413: "the hub finds it too large.",
    429: "the hub is asked too often.",
}


# Going on from a state of the hub.


@dataclass(frozen=True)
class Address:
    """A state folder on the hub."""

    repo: str
    folder: str
    revision: str
    kind: str


def address(text: str) -> Address:
    """What USER/NAME/FOLDER:REVISION:TYPE means, the latter two optional; raises `ValueError` with a sentence."""
    place, _, rest = text.strip().partition(":")
    revision, _, kind = rest.partition(":")
    parts = place.strip("/").split("/")
    if len(parts) < 3 or not all(parts) or ".." in parts:
        raise ValueError("is written as user/name/folder of the state, or user/name/folder:revision:type.")
    if kind not in ("", "model", "dataset", "space"):
        raise ValueError(f"the type is model, dataset or space; {kind} is not.")
    return Address("/".join(parts[:2]), "/".join(parts[2:]), revision or "main", kind or "model")


def fetched(s: Settings, report: Reporter) -> Settings:
    """The settings with a state of the hub fetched and in the place of `resume`, if they name one.

    Raises `Failure` with a sentence when it cannot be had.
    """
    if not s.resume_from_huggingface.strip():
        return s
    wanted = address(s.resume_from_huggingface)
    from huggingface_hub import snapshot_download

    report.phase("downloading state")
    try:
        folder = snapshot_download(
            wanted.repo,
            revision=wanted.revision,
            repo_type=wanted.kind,
            allow_patterns=f"{wanted.folder}/*",
            token=s.huggingface_token.strip() or None,
        )
    except Exception as error:  # whatever the network, the hub or its library raise
        raise Failure(
            f"The state {s.resume_from_huggingface} could not be fetched: {why(error, s)}",
            "Check the address, or choose a state folder of this machine.",
            STATES_KEY,
        ) from error
    return s.changed(resume=str(Path(folder, wanted.folder)))
