"""The application: the page, frames by index, and one WebSocket for what a person does and what comes of it."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import ValidationError

from ..errors import JointError, OutputError, SettingsError
from ..runtime.bundle import ENGINES
from ..runtime.clicks.prompts import Click
from ..runtime.video.sources import IMAGE_SUFFIXES
from .access import Access, Guard
from .exports import Kind, Stopped, export
from .project import Choices, Labels
from .session import Session

STATIC = Path(__file__).parent / "static"
PROJECTS = ".jointrt-studio"
"""Folder of the projects, under the folder that the studio was started with."""
MAX_UPLOAD = 4 << 30
VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".ts"}
CSP = "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
_MAX_POINTS = 100_000


class Studio:
    """The session, and the pages that look at it; the first page works, others are told."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.session: Session | None = None
        self._pages: dict[WebSocket, asyncio.Queue[dict[str, Any] | bytes]] = {}
        self._holder: WebSocket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def under(self, name: str) -> Path:
        """A path under the root.

        Raises:
            SettingsError: it is not, or nothing is there.
        """
        path = (self.root / name).resolve()
        if "\0" in name or not path.is_relative_to(self.root) or not path.exists():
            raise SettingsError(f"{name!r} is no film in the folder that the studio was started with")
        return path

    def open(self, name: str) -> None:
        """Open a film under the root; the one before is saved and closed.

        Raises:
            JointError: it cannot be opened.
        """
        path = self.under(name)
        folder = self.root / PROJECTS / str(path.relative_to(self.root)).replace("/", "__").replace("\\", "__")
        session = Session(path, folder, self.tell, self.show)
        if self.session is not None:
            self.session.close()
        self.session = session

    def working(self) -> Session:
        """The session.

        Raises:
            SettingsError: no film is open.
        """
        if self.session is None:
            raise SettingsError("no film is open: open one first")
        return self.session

    def files(self) -> list[str]:
        """Films and folders of images under the root, two levels deep."""
        found = []
        for pattern in ("*", "*/*"):
            for path in sorted(self.root.glob(pattern)):
                if any(part.startswith(".") for part in path.relative_to(self.root).parts):
                    continue
                folder = path.is_dir() and any(p.suffix.lower() in IMAGE_SUFFIXES for p in path.iterdir())
                if folder or path.suffix.lower() in VIDEO_SUFFIXES:
                    found.append(str(path.relative_to(self.root)))
        return found[:1000]

    def tell(self, message: dict[str, Any] | bytes) -> None:
        """Send to all pages, from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue, message)

    def _queue(self, message: dict[str, Any] | bytes) -> None:
        for page in self._pages.values():
            page.put_nowait(message)

    def show(self, frame: int, labels: Labels) -> None:
        """Send a frame's masks to all pages."""
        self.tell(struct.pack("<I", frame) + encode(labels))

    async def serve(self, page: WebSocket) -> None:
        """Talk to one page until it is closed."""
        self._loop = asyncio.get_running_loop()
        await page.accept()
        self._pages[page] = asyncio.Queue()
        if self._holder is None:
            self._holder = page
        sender = asyncio.create_task(self._send(page))
        self._roles()
        self._pages[page].put_nowait(self.hello())
        try:
            while True:
                await self._receive(page, await page.receive_json())
        except (WebSocketDisconnect, ValueError, RuntimeError):
            pass
        finally:
            sender.cancel()
            del self._pages[page]
            if self._holder is page:
                self._holder = next(iter(self._pages), None)
            self._roles()

    def hello(self) -> dict[str, Any]:
        """What a page must know to begin."""
        bundles = sorted(p.parent.name for p in ENGINES.glob("*/manifest.json") if p.parent.name != "clicks")
        message: dict[str, Any] = {"kind": "hello", "files": self.files(), "bundles": bundles, "film": None}
        if self.session is not None:
            source = self.session.frames.source
            message["film"] = {
                "name": self.session.name,
                "size": self.session.frames.size,
                "count": self.session.frames.count,
                "rate": float(source.rate),
                "tracking": self.session.tracking,
                "project": self.session.project.describe(),
            }
        return message

    def _roles(self) -> None:
        for page, messages in self._pages.items():
            messages.put_nowait({"kind": "role", "works": page is self._holder, "pages": len(self._pages)})

    async def _send(self, page: WebSocket) -> None:
        messages = self._pages[page]
        while True:
            message = await messages.get()
            if isinstance(message, bytes):
                await page.send_bytes(message)
            else:
                await page.send_json(message)

    async def _receive(self, page: WebSocket, message: Any) -> None:
        try:
            if not isinstance(message, dict):
                raise SettingsError("a message is no object")
            if message.get("kind") == "take":
                self._holder = page
                self._roles()
                return
            if page is not self._holder:
                raise SettingsError("another page works on this film: press take over first")
            if message.get("kind") == "open":
                await asyncio.to_thread(self.open, str(message["name"]))
                self.tell(self.hello())
            else:
                self._act(self.working(), message)
        except JointError as error:
            self._pages[page].put_nowait({"kind": "error", "text": str(error)})
        except (KeyError, TypeError, ValueError, OverflowError, ValidationError) as error:
            self._pages[page].put_nowait({"kind": "error", "text": f"a message is malformed: {type(error).__name__}"})

    def _act(self, session: Session, message: dict[str, Any]) -> None:
        kind, project = message["kind"], session.project
        frame = int(message.get("frame", 0))
        if not 0 <= frame < session.frames.count:
            raise SettingsError(f"frame is {frame}: expected 0 to {session.frames.count - 1}")
        if kind == "click":
            clicks = [Click(float(x), float(y), bool(on)) for x, y, on in message["clicks"][:200]]
            box = message.get("box")
            edges = None if box is None else (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
            session.click(frame, int(message["object"]), clicks, edges)
        elif kind == "paint":
            points = np.array(message["points"][:_MAX_POINTS], np.float32).reshape(-1, 2)
            if not len(points) or not np.isfinite(points).all() or np.abs(points).max() > 1e5:
                raise SettingsError("the stroke has no points, or they lie far outside of the picture")
            width = min(max(float(message.get("width", 1)), 1.0), 2000.0)
            session.paint(frame, int(message["object"]), points, width, str(message["mode"]))
        elif kind == "contour":
            width, height = session.frames.size
            ends = [
                (min(max(int(x), 0), width - 1), min(max(int(y), 0), height - 1))
                for x, y in (message["start"], message["end"])
            ]
            session.contour(frame, ends[0], ends[1])
        elif kind in ("undo", "redo"):
            session.undo(again=kind == "redo")
        elif kind == "track":
            count = message.get("count")
            session.track(frame, backwards=bool(message.get("backwards")), count=None if count is None else int(count))
        elif kind == "stop":
            session.stop()
        elif kind == "choose":
            session.choose(Choices.model_validate(message["choices"]))
            self.tell({"kind": "project", **project.describe()})
        elif kind == "remove":
            session.remove(int(message["object"]))
        elif kind == "export":
            self._export(session, Kind(message["what"]))
        else:
            if kind == "add":
                project.add()
            elif kind == "rename":
                project.rename(int(message["object"]), str(message["name"]), str(message["colour"]))
            elif kind == "at":
                project.record.frame = frame
                return
            else:
                raise SettingsError(f"a message of kind {str(kind)[:40]!r} is not known")
            self.tell({"kind": "project", **project.describe()})

    def _export(self, session: Session, kind: Kind) -> None:
        session.begin()
        begun = time.monotonic()

        def advance(done: int) -> bool:
            if done % 5 == 0:
                rate = done / max(time.monotonic() - begun, 1e-6)
                self.tell(
                    {"kind": "saving", "what": kind.value, "done": done, "count": session.frames.count, "fps": rate}
                )
            return not session.stopping

        def job() -> None:
            try:
                folder = session.project.folder / "exports"
                path = export(kind, session.frames, session.project, folder, advance)
                self.tell({"kind": "saved", "what": kind.value, "path": str(path)})
            except Stopped:
                self.tell({"kind": "saved", "what": kind.value, "path": None})
            except JointError as error:
                self.tell({"kind": "saved", "what": kind.value, "path": None})
                raise error
            finally:
                session.tracking = False

        session.submit(job)


def encode(labels: Labels) -> bytes:
    """A label map as a grey PNG, its values the ids."""
    return cv2.imencode(".png", labels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def create_app(root: Path, access: Access, film: str | None = None) -> FastAPI:
    """The application for a folder of films.

    Args:
        root: films, uploads and projects stay under it.
        access: who may use it.
        film: opened at once, relative to `root`.

    Raises:
        JointError: the film cannot be opened.
    """
    studio = Studio(root)
    if film is not None:
        studio.open(film)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        if studio.session is not None:
            await asyncio.to_thread(studio.session.close)

    app = FastAPI(title="jointrt studio", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.studio = studio

    @app.middleware("http")
    async def policy(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers["content-security-policy"] = CSP
        response.headers["x-content-type-options"] = "nosniff"
        return response

    @app.exception_handler(JointError)
    async def refused(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 400)

    @app.get("/frame/{index}.jpg")
    def frame(index: int) -> Response:
        return Response(studio.working().frames.jpeg(index), media_type="image/jpeg")

    @app.get("/mask/{index}.png")
    def mask(index: int) -> Response:
        session = studio.working()
        if not 0 <= index < session.frames.count:
            raise SettingsError(f"frame is {index}: expected 0 to {session.frames.count - 1}")
        return Response(
            encode(session.project.labels(index)), media_type="image/png", headers={"cache-control": "no-store"}
        )

    @app.get("/export/{name}")
    def exported(name: Kind) -> FileResponse:
        path = studio.working().project.folder / "exports" / name.value
        if not path.is_file():
            raise SettingsError(f"{name.value} was not saved yet")
        return FileResponse(path, filename=f"{Path(studio.working().name).stem}-{name.value}")

    @app.put("/upload/{name}")
    async def upload(name: str, request: Request) -> dict[str, str]:
        return {"name": await receive(request, studio.root, name)}

    @app.websocket("/ws")
    async def socket(page: WebSocket) -> None:
        await studio.serve(page)

    app.mount("/", StaticFiles(directory=STATIC, html=True))
    app.add_middleware(Guard, access=access)
    return app


async def receive(request: Request, root: Path, name: str) -> str:
    """Take a film into a folder, aside and renamed.

    Raises:
        OutputError: there is one of that name, or it cannot be written.
        SettingsError: its name is not a film's, or it is too large.
    """
    if Path(name).name != name or name.startswith(".") or Path(name).suffix.lower() not in VIDEO_SUFFIXES:
        raise SettingsError(f"{name[:100]!r} is no film's name: expected one of {', '.join(sorted(VIDEO_SUFFIXES))}")
    target, aside, size = root / name, root / f".{name}.part", 0
    if target.exists():
        raise OutputError(f"{name} is there already: open it, or give the film another name")
    try:
        with aside.open("xb") as stream:
            async for piece in request.stream():
                size += len(piece)
                if size > MAX_UPLOAD:
                    raise SettingsError(f"the film has over {MAX_UPLOAD >> 30} GiB: copy it into {root} instead")
                await asyncio.to_thread(stream.write, piece)
        aside.rename(target)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}") from None
    finally:
        aside.unlink(missing_ok=True)
    return name
