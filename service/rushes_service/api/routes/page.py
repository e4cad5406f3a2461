"""The page at `/` and its files. Plain HTML, CSS and modules; nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from rushes_service.api.context import InContext
from rushes_service.api.http.security import COOKIE, equal, session_of, token_of

router = APIRouter(include_in_schema=False)

WEB = Path(__file__).parents[2] / "web"

TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FILES = {path.name: TYPES[path.suffix] for path in sorted(WEB.iterdir()) if path.suffix in TYPES}
"""Servable files by name: a request never becomes a path."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    # The files change with the package and have no version in their names.
    "Cache-Control": "no-cache",
}


@router.head("/rank")
@router.get("/rank")
def rank_page() -> Response:
    """The page of blind ranking."""
    return FileResponse(WEB / "rank.html", media_type="text/html", headers=HEADERS)


@router.head("/")
@router.get("/")
def page(request: Request, context: InContext, token: Annotated[str | None, Query()] = None) -> Response:
    """The page; with `?token=`, first trade the token for a cookie so that it does not stay in the address."""
    if token is None:
        return FileResponse(WEB / "index.html", media_type="text/html", headers=HEADERS)
    wanted = token_of(context.settings)
    if wanted is not None and not equal(token, wanted):
        raise HTTPException(401, "this is not the token the server was started with (RUSHES_TOKEN)")
    response = RedirectResponse(
        ".", status_code=303, headers={"Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
    )
    if wanted is not None:
        secure = request.url.scheme == "https"
        response.set_cookie(COOKIE, session_of(wanted), httponly=True, samesite="strict", secure=secure, path="/")
    return response


@router.head("/web/{name}")
@router.get("/web/{name}")
def asset(name: str) -> Response:
    """One of the page's files."""
    if name not in FILES:
        raise HTTPException(404, f"there is no file {name} here")
    return FileResponse(WEB / name, media_type=FILES[name], headers=HEADERS)
