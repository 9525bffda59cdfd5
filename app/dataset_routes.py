"""`/loom/datasets/...`: what the Data sets tab asks for and sends. Behind the gate, as everything is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from app import dataset_pictures as pictures
from app import dataset_uploads as uploads
from app import datasets
from app.datasets import Refused, allowed_folder
from app.paths import is_allowed
from trainer.data.caption_finder import CAPTION_ENDINGS
from trainer.data.images import KINDS, is_picture
from trainer.settings.dataset import read_resolution
from trainer.workspace import workspace

router = APIRouter(prefix="/loom/datasets")
STATIC = Path(__file__).resolve().parent / "static"
PARTS = {"datasets.css": "text/css", "datasets.js": "text/javascript", "gallery.js": "text/javascript"}
"""What the tab is made of; it is fetched when the tab is opened for the first time."""
FORM = "application/octet-stream"
"""The type of an upload. Another web site cannot send it unasked: browsers ask first, and the gate refuses."""
Asked = Annotated[dict[str, Any], Body()]
USUAL_RESOLUTION = (512, 512)


class Answer(JSONResponse):
    """JSON in ASCII: names of files need not be proper Unicode, and come back as they are."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode("ascii")


def version() -> str:
    """Changes when one of the parts does."""
    content = b"".join((STATIC / name).read_bytes() for name in PARTS if (STATIC / name).exists())
    return hashlib.sha256(content).hexdigest()[:12]


@router.get("/static/{name}")
def part(name: str) -> Response:
    """A script or style sheet of the tab."""
    if name not in PARTS:
        return Response("There is nothing here.", 404, media_type="text/plain")
    headers = {"cache-control": "private, max-age=31536000, immutable"}
    return Response((STATIC / name).read_bytes(), headers=headers, media_type=PARTS[name])


def answered(deed: Callable[[], dict[str, Any]]) -> Response:
    """The answer to a deed, or the sentence why it was refused, with the input it is about."""
    try:
        return Answer(deed())
    except Refused as refused:
        return Answer({"say": str(refused), "field": refused.field}, 422)
    except OSError as error:
        return Answer({"say": f"{error.filename or 'A file'}: {error.strerror or error}.", "field": ""}, 422)


@router.get("")
def overview() -> Response:
    """The data sets there are, and what an upload may have."""
    return answered(
        lambda: {
            "root": str(workspace().datasets),
            "sets": datasets.overview(),
            "largest": uploads.LARGEST,
            "endings": {"picture": list(KINDS), "caption": list(CAPTION_ENDINGS)},
        }
    )


@router.post("/create")
def create(asked: Asked) -> Response:
    """Make a data set, or a further folder in one."""

    def deed() -> dict[str, Any]:
        name, instance, class_ = (str(asked.get(key) or "") for key in ("name", "instance", "class"))
        made = datasets.create(
            name, instance, class_, asked.get("repeats", ""), asked.get("reg_repeats"), asked.get("named") is True
        )
        return {
            "path": str(made.path),
            "images": str(made.images),
            "regularisation": str(made.regularisation or ""),
        }

    return answered(deed)


@router.post("/upload")
async def upload(request: Request, folder: str = "", name: str = "") -> Response:
    """One file into a folder of a data set; the body is the file, `name` its path as it was dropped."""
    if request.headers.get("content-type") != FORM:
        return Answer({"say": f"An upload is of type {FORM}.", "field": ""}, 415)
    try:
        usual, root = _places(folder)
        file = await run_in_threadpool(_begin, request, name, usual)
    except Refused as refused:
        return Answer({"results": [uploads.Result(name, "refused", str(refused)).plain()]})
    except OSError as error:
        return Answer({"say": f"{name} cannot be written: {error.strerror or error}.", "field": ""}, 422)
    try:
        await _receive(request, file, name)
        found = await run_in_threadpool(lambda: [item.plain() for item in uploads.take(file, name, usual, root)])
        return Answer({"results": found})
    except Refused as refused:
        return Answer({"results": [uploads.Result(name, "refused", str(refused)).plain()]})
    except ClientDisconnect:
        return Response(status_code=499)
    except OSError as error:
        return Answer({"say": f"{name} cannot be written: {error.strerror or error}.", "field": ""}, 422)
    finally:
        file.unlink(missing_ok=True)


def _places(folder: str) -> tuple[Path, Path]:
    """(the folder that is added to, its data set), both in the workspace."""
    path = allowed_folder(folder)
    own = workspace().datasets.resolve()
    real = path.resolve()
    if not real.is_relative_to(own) or real == own:
        raise Refused(f"{path} is not in a data set of {workspace().datasets}.", "folder")
    return path, own / real.relative_to(own).parts[0]


def _begin(request: Request, name: str, usual: Path) -> Path:
    """An empty file for what comes; refused by its name, kind and length before anything is read."""
    last = uploads.split(name)[-1]
    kind = uploads.kind_of(last)
    if not kind:
        uploads.check(Path(), last)
    length = request.headers.get("content-length", "0")
    uploads.refuse_size(kind, last, int(length) if length.isdigit() else 0, usual)
    return uploads.temporary(usual, Path(last).suffix)


async def _receive(request: Request, file: Path, name: str) -> None:
    kind = uploads.kind_of(name)
    count = 0
    with file.open("wb") as sink:
        async for block in request.stream():
            count += len(block)
            if count > uploads.LARGEST[kind]:
                raise Refused(f"{name} is larger than {uploads.LARGEST[kind] // uploads.MB:,} MB.")
            sink.write(block)
    length = request.headers.get("content-length")
    if length is not None and length.isdigit() and int(length) != count:
        raise Refused(f"{name} did not arrive whole; add it again.")


@router.post("/copy")
def copy(asked: Asked) -> Response:
    """Copy a folder of this machine into a data set; answers with a line of JSON a file."""
    try:
        usual, root = _places(str(asked.get("folder") or ""))
        source = allowed_folder(str(asked.get("source") or ""))
        copied = uploads.copy_folder(source, usual, root)
    except Refused as refused:
        return Answer({"say": str(refused), "field": refused.field or "source"}, 422)

    def lines() -> Iterator[str]:
        for done, total, result in copied:
            line = {"done": done, "total": total, "result": result.plain() if result else None}
            yield json.dumps(line) + "\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")


@router.post("/look")
def look(asked: Asked) -> Response:
    """Folders, pictures and captions of a data set, or of any folder that the page may use."""

    def deed() -> dict[str, Any]:
        root = allowed_folder(str(asked.get("path") or ""))
        own = root.resolve().parent == workspace().datasets.resolve()
        return pictures.look(root, str(asked.get("extension") or ".txt")) | {"own": own}

    return answered(deed)


@router.post("/facts")
def facts(asked: Asked) -> Response:
    """Sizes and problems of a few pictures."""

    def deed() -> dict[str, Any]:
        try:
            resolution = read_resolution(str(asked.get("resolution") or ""))
        except ValueError:
            resolution = USUAL_RESOLUTION
        named = (Path(path) for path in _list(asked, "pictures")[:200] if isinstance(path, str) and "\0" not in path)
        chosen = [path for path in named if is_picture(path.name) and is_allowed(path)]
        return {"facts": pictures.facts(chosen, resolution)}

    return answered(deed)


@router.post("/duplicates")
def duplicates(asked: Asked) -> Response:
    """Groups of pictures that are the same."""
    return answered(lambda: {"groups": pictures.duplicates(allowed_folder(str(asked.get("path") or "")))})


@router.post("/caption")
def caption(asked: Asked) -> Response:
    """Save a caption; one that has changed on disk is sent back instead (status 409), and nothing is written."""

    def deed() -> dict[str, Any]:
        picture = pictures.allowed_picture(str(asked.get("picture") or ""))
        words = [str(asked.get(key) or "") for key in ("extension", "text", "version")]
        now = pictures.save(picture, *words)
        return {"caption": now.text, "version": now.version}

    try:
        return answered(deed)
    except pictures.Changed as changed:
        now = {"say": str(changed), "caption": changed.text, "version": changed.version}
        return Answer(now, 409)


@router.post("/remove")
def remove(asked: Asked) -> Response:
    """Move a picture into the bin beside it."""

    def deed() -> dict[str, Any]:
        picture = pictures.allowed_picture(str(asked.get("picture") or ""))
        return pictures.remove(picture, str(asked.get("extension") or ".txt"))

    return answered(deed)


@router.post("/restore")
def restore(asked: Asked) -> Response:
    """Bring a removed picture back."""
    return answered(lambda: {"path": str(pictures.restore(pictures.allowed_picture(str(asked.get("picture") or ""))))})


@router.post("/repeats")
def repeats(asked: Asked) -> Response:
    """Give a folder like 10_cat other repeats."""

    def deed() -> dict[str, Any]:
        folder = allowed_folder(str(asked.get("folder") or ""))
        return {"path": str(datasets.rename_repeats(folder, asked.get("repeats")))}

    return answered(deed)


@router.post("/fields")
def fields(asked: Asked) -> Response:
    """What Copy info to respective fields writes."""
    return answered(lambda: {"values": datasets.fields(allowed_folder(str(asked.get("path") or "")))})


def _list(asked: dict[str, Any], key: str) -> list[Any]:
    value = asked.get(key)
    return value if isinstance(value, list) else []
