"""`/loom/file` and `/loom/thumb`: pictures and results of the folders that the page may show, and of no others."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, PlainTextResponse, Response

from app import paths
from app.thumbnails import thumbnail
from trainer.workspace import workspace

router = APIRouter()


@dataclass(frozen=True)
class Kind:
    """How files with one ending are served."""

    type: str
    attached: bool = False
    workspace_only: bool = False


PICTURES = {
    ".png": Kind("image/png"),
    ".jpg": Kind("image/jpeg"),
    ".jpeg": Kind("image/jpeg"),
    ".webp": Kind("image/webp"),
    ".bmp": Kind("image/bmp"),
    ".avif": Kind("image/avif"),
    ".gif": Kind("image/gif"),
}
WEIGHTS = dict.fromkeys((".safetensors", ".ckpt"), Kind("application/octet-stream", attached=True))
TEXTS = dict.fromkeys((".txt", ".json", ".jsonl"), Kind("text/plain", attached=True, workspace_only=True))
KINDS: Mapping[str, Kind] = {**PICTURES, **WEIGHTS, **TEXTS}
"""Nothing else is served. No SVG and no HTML: these can hold scripts."""

FOREVER, ASK_AGAIN = "private, max-age=31536000, immutable", "private, no-cache"


class Refused(Exception):
    """Why a file is not served: a status and a sentence."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def servable(path: str, kinds: Mapping[str, Kind] = KINDS) -> tuple[Path, Kind]:
    """The real file behind `path`, links followed, and how it is served; raises `Refused`."""
    if not path or "\0" in path or not Path(path).is_absolute():
        raise Refused(400, "path must be the full path of a file.")
    if not paths.is_allowed(path):
        raise Refused(403, "This file is outside the folders that the page may show; see --allow.")
    real = Path(path).resolve()
    kind = kinds.get(real.suffix.lower())
    if kind is None or (kind.workspace_only and not real.is_relative_to(workspace().root.resolve())):
        raise Refused(403, "Files of this kind are not served.")
    try:
        regular = stat.S_ISREG(real.stat().st_mode)
    except OSError:
        regular = False
    if not regular:
        raise Refused(404, "There is no such file.")
    return real, kind


@router.get("/loom/file")
def file(request: Request, path: str = "", v: str = "") -> Response:
    """A file as it is: pictures to look at, everything else to keep. With `v`, a version, it may be cached for ever."""
    try:
        real, kind = servable(path)
    except Refused as refused:
        return _refuse(refused)
    return _answer(request, real, kind.type, v, real.name if kind.attached else None)


@router.get("/loom/thumb")
def thumb(request: Request, path: str = "", size: int = 256, v: str = "") -> Response:
    """A small picture of a picture."""
    try:
        real, _ = servable(path, PICTURES)
        small = thumbnail(real, max(1, size))
    except Refused as refused:
        return _refuse(refused)
    except ValueError as error:
        return PlainTextResponse(str(error), 422)
    except OSError:
        return PlainTextResponse("This picture cannot be read.", 404)
    return _answer(request, small, "image/webp", v)


@router.get("/loom/alive")
def alive() -> dict[str, str]:
    """Says that LoRA Loom is here, to whoever finds the port taken."""
    return {"name": "LoRA Loom"}


def _refuse(refused: Refused) -> Response:
    return PlainTextResponse(str(refused), refused.status)


def _answer(request: Request, path: Path, kind: str, version: str, name: str | None = None) -> Response:
    facts = path.stat()
    etag = f'"{facts.st_mtime_ns:x}-{facts.st_size:x}"'
    headers = {"etag": etag, "cache-control": FOREVER if version else ASK_AGAIN}
    known = request.headers.get("if-none-match", "")
    if etag in (item.strip().removeprefix("W/") for item in known.split(",")):
        return Response(status_code=304, headers=headers)
    disposition = "attachment" if name else "inline"
    return FileResponse(path, media_type=kind, headers=headers, filename=name, content_disposition_type=disposition)
