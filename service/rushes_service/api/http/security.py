"""Access control: loopback only, or with the token; no requests from other sites' pages.

Plain ASGI middleware, so that streams pass through it untouched.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rushes.errors import ConfigError
from rushes_service.api.http.limits import RateLimit
from rushes_service.api.http.problems import VIDEOS, problem
from rushes_service.settings import Settings

COOKIE = "rushes_session"

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""Open without a token, for supervisors and load balancers."""

MAX_BODY_BYTES = 1 << 20
"""Largest body in bytes: a request holds a prompt and some paths."""

UPLOADS = "/v1/uploads"
FORM = "multipart/form-data"
MAX_UPLOAD_BYTES = 64 << 20
"""A control video of some seconds, or a large picture."""

BODY_WAIT_S = 20.0
"""Longest pause within a body: a slow sender must not hold a connection."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def check_exposure(settings: Settings) -> None:
    """Refuse to listen beyond this machine without a token.

    Raises:
        ConfigError: the host is not a loopback address and there is no token.
    """
    if is_loopback(settings.host) or token_of(settings):
        return
    raise ConfigError(
        f"host {settings.host} can be reached from other machines, and there is no token: set RUSHES_TOKEN, "
        "or listen on 127.0.0.1"
    )


def is_loopback(host: str) -> bool:
    """True for `localhost` and the loopback addresses; False for any other name, which may lead anywhere."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def token_of(settings: Settings) -> str | None:
    """The bearer token, or None when there is none (an empty one is none)."""
    return (settings.token.get_secret_value() if settings.token else "") or None


def session_of(token: str) -> str:
    """Value of the page's cookie: proves that the token was known, without being the token."""
    return hmac.new(token.encode(), b"rushes page session", hashlib.sha256).hexdigest()


class Guard:
    """Checks every request before any route sees it.

    Without a token, only requests that name this machine in `Host` are answered: a page elsewhere that points its
    own name at 127.0.0.1 (DNS rebinding) sends that name. With a token, every route but the health checks needs it.
    """

    def __init__(self, app: ASGIApp, token: str | None, rate: RateLimit) -> None:
        self.app = app
        self.token = token
        self.rate = rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a refusal, or pass the request on with its body limited."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self.refuse(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, hardened(send))
            return
        await self.app(scope, limited(receive, largest(scope, headers)), hardened(send))

    def refuse(self, scope: Scope, headers: Mapping[str, str]) -> Response | None:
        """Why this request is not answered, or None."""
        host = host_name(headers.get("host", ""))
        if self.token is None and not is_loopback(host):
            return problem(
                421, "host", f"this server does not answer for {host or 'an empty Host header'}: use localhost"
            )
        if scope["method"] not in SAFE_METHODS and foreign_origin(headers):
            detail = f"requests from pages of other sites are refused (Origin: {headers.get('origin')})"
            return problem(403, "forbidden", detail)
        if self.token is not None and scope["path"] not in OPEN_PATHS and not self.knows_token(scope, headers):
            detail = (
                "send the token as 'Authorization: Bearer <RUSHES_TOKEN>', or open /?token=<RUSHES_TOKEN> in a browser"
            )
            return problem(401, "unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > largest(scope, headers):
            return problem(413, "request_entity_too_large", f"the body is larger than {largest(scope, headers)} bytes")
        return self.too_often(scope)

    def too_often(self, scope: Scope) -> Response | None:
        """A refusal for a client that changes things more often than it may."""
        if scope["method"] in SAFE_METHODS:
            return None
        wait_s = self.rate.wait_s(scope["client"][0] if scope.get("client") else "")
        if wait_s == 0:
            return None
        detail = f"more than {self.rate.per_minute} changes a minute (RUSHES_RATE_LIMIT): wait {wait_s:.1f} s"
        return problem(429, "too_many_requests", detail, headers={"Retry-After": str(max(1, round(wait_s)))})

    def knows_token(self, scope: Scope, headers: Mapping[str, str]) -> bool:
        """True for the bearer token, the page's cookie, or the page's own address, which checks `?token=` itself."""
        assert self.token is not None
        if scope["path"] == "/" and "token" in parse_qs(
            scope["query_string"].decode("latin-1"), keep_blank_values=True
        ):
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # Headers are read as Latin-1, and written as UTF-8 by curl.
        sent = given.strip().encode("latin-1", "replace").decode(errors="replace")
        if scheme.lower() == "bearer" and equal(sent, self.token):
            return True
        return equal(cookie(headers.get("cookie", "")), session_of(self.token))


def equal(given: str, wanted: str) -> bool:
    """Comparison in constant time."""
    return hmac.compare_digest(given.encode(), wanted.encode())


def cookie(header: str) -> str:
    """Our cookie's value, or an empty text."""
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


def host_name(host: str) -> str:
    """The name in a `Host` header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def foreign_origin(headers: Mapping[str, str]) -> bool:
    """True when a page of another site sent this: browsers name the page's origin with every unsafe request."""
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower()


def largest(scope: Scope, headers: Mapping[str, str]) -> int:
    """Largest allowed body in bytes; a form for `/v1/videos` may contain its start image."""
    form = headers.get("content-type", "").lower().startswith(FORM)
    holds_file = scope["path"] == UPLOADS or (scope["path"] == VIDEOS and form)
    return MAX_UPLOAD_BYTES if holds_file else MAX_BODY_BYTES


def limited(receive: Receive, largest_body: int) -> Receive:
    """`receive` that stops at `largest_body`, for bodies that come without a length, and for those that never end."""
    seen = 0
    complete = False

    async def receive_limited() -> Message:
        nonlocal seen, complete
        try:
            # Behind the body only the end of the connection is waited for, which takes as long as it takes.
            message = await (receive() if complete else asyncio.wait_for(receive(), BODY_WAIT_S))
        except asyncio.TimeoutError:
            raise HTTPException(408, f"nothing more of the body came within {BODY_WAIT_S:g} s") from None
        complete = complete or not message.get("more_body", False)
        seen += len(message.get("body", b""))
        if seen > largest_body:
            raise HTTPException(413, f"the body is larger than {largest_body} bytes")
        return message

    return receive_limited


def hardened(send: Send) -> Send:
    """`send` that forbids browsers to guess content types, on every response."""

    async def send_hardened(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), (b"x-content-type-options", b"nosniff")]
        await send(message)

    return send_hardened
