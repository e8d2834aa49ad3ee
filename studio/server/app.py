"""The application: the page, frames by index, uploads, and the WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, WebSocket
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles

from ...errors import JointError, SettingsError
from ..exports import Kind
from ..project import as_runs
from .access import Access, Guard
from .pages import Studio
from .uploads import receive

STATIC = Path(__file__).parents[1] / "static"
CSP = "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
_FRESH = {"cache-control": "no-store"}


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
    app.middleware("http")(_policy)
    app.exception_handler(JointError)(_refused)
    app.include_router(_router(studio))
    app.mount("/", StaticFiles(directory=STATIC, html=True))
    app.add_middleware(Guard, access=access)
    return app


async def _policy(request: Request, call_next: Any) -> Response:
    response: Response = await call_next(request)
    response.headers["content-security-policy"] = CSP
    response.headers["x-content-type-options"] = "nosniff"
    return response


async def _refused(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": str(error)}, 400)


def _router(studio: Studio) -> APIRouter:
    router = APIRouter()

    @router.get("/frame/{index}.jpg")
    def frame(index: int) -> Response:
        return Response(studio.working().frames.jpeg(index), media_type="image/jpeg", headers=_FRESH)

    @router.get("/mask/{index}")
    def mask(index: int) -> Response:
        session = studio.working()
        if not 0 <= index < session.frames.count:
            raise SettingsError(f"frame is {index}: expected 0 to {session.frames.count - 1}")
        runs = as_runs(session.project.labels(index))
        return Response(runs, media_type="application/octet-stream", headers=_FRESH)

    @router.get("/export/{name}")
    def exported(name: Kind) -> FileResponse:
        path = studio.working().project.folder / "exports" / name.value
        if not path.is_file():
            raise SettingsError(f"{name.value} was not saved yet")
        return FileResponse(path, filename=f"{Path(studio.working().name).stem}-{name.value}", headers=_FRESH)

    @router.put("/upload/{name}")
    async def upload(name: str, request: Request) -> dict[str, str]:
        return {"name": await receive(request, studio.root, studio.projects("incoming"), name)}

    @router.websocket("/ws")
    async def socket(page: WebSocket) -> None:
        await studio.serve(page)

    return router
