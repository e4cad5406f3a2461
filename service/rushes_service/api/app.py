"""The API as an ASGI application, and the server that ends its event streams."""

from __future__ import annotations

import asyncio
import importlib.metadata
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI

from rushes.client.client import Client
from rushes.errors import ConfigError
from rushes_service.api.background.events_consumer import EventConsumer
from rushes_service.api.background.metrics import Metrics
from rushes_service.api.background.thumbnails import Thumbnails
from rushes_service.api.background.webhooks import GROUP, Webhooks
from rushes_service.api.context import Context
from rushes_service.api.http.limits import RateLimit
from rushes_service.api.http.paths import Roots
from rushes_service.api.http.problems import Problem, add_problem_handlers
from rushes_service.api.http.security import Guard, check_exposure, token_of
from rushes_service.api.routes import (
    events,
    grids,
    health,
    media,
    page,
    queue,
    ranking,
    resampling,
    runs,
    samples,
    uploads,
    videos,
)
from rushes_service.api.services.housekeeping import keep_tidy
from rushes_service.settings import Settings
from rushes_service.storage.path_map import PathMap
from rushes_service.storage.staged import StagedFiles

THUMBNAIL_DIR = "thumbnails"
"""Below the cache directory."""

ROOMS = (samples, resampling, grids, ranking, media, runs, queue, uploads, videos, events, health, page)

DESCRIPTION = """
Samples of LoRA checkpoints, made by workers on other GPUs while training goes on.

Errors are `application/problem+json`: `type` is stable, `detail` says what to do, `field` names what was wrong.
"""


def create_app(settings: Settings) -> FastAPI:
    """The API over the queue at `settings.redis_url`. The first connection to Redis is made by the first request.

    Raises:
        ConfigError: it would listen beyond this machine without a token, or has no root.
    """
    check_exposure(settings)
    if not settings.roots:
        raise ConfigError("RUSHES_ROOTS is empty: name at least one directory that requests may use")
    client = Client(settings.redis_url, make_directories=False)
    thumbnails = Thumbnails(settings.cache_dir / THUMBNAIL_DIR)
    staged = StagedFiles(settings.cache_dir, settings.staged_bytes)
    context = Context(
        settings, client, Roots(settings.roots), thumbnails, Metrics(client), staged, PathMap.parse(settings.map)
    )
    watchers = watchers_of(context)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tidying = asyncio.create_task(keep_tidy(context))
        with ExitStack() as stack:
            for watcher in watchers:
                stack.enter_context(watcher)
            yield
            context.stopping.set()
            for watcher in watchers:
                watcher.ask_to_stop()
            await tidying
            await context.feed.close()
        client.close()

    app = FastAPI(
        title="Rushes",
        version=importlib.metadata.version("rushes"),
        description=DESCRIPTION,
        lifespan=lifespan,
        # Both pages load their scripts from a CDN; the document itself is at /openapi.json.
        docs_url=None,
        redoc_url=None,
    )
    app.state.context = context
    app.add_middleware(Guard, token=token_of(settings), rate=RateLimit(settings.rate_limit))
    add_problem_handlers(app)
    for room in ROOMS:
        app.include_router(room.router)
    describe(app, bearer=token_of(settings) is not None)
    return app


def watchers_of(context: Context) -> list[EventConsumer]:
    """The consumers of events: metrics and thumbnails in every process, webhooks shared by all processes.

    Raises:
        ConfigError: the webhook's address or secret cannot be used.
    """
    settings = context.settings
    watchers = [EventConsumer(context.client, [context.metrics.receive, context.thumbnails.receive])]
    if settings.webhook_url:
        secret = settings.webhook_secret.get_secret_value() if settings.webhook_secret else None
        webhooks = Webhooks(settings.webhook_url, secret)
        watchers.append(EventConsumer(context.client, [webhooks.receive], GROUP, on_stop=webhooks.stopping.set))
    return watchers


def describe(app: FastAPI, *, bearer: bool) -> None:
    """Add to the OpenAPI document what no route declares: problem bodies, and the token if one is required."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            components = document.setdefault("components", {})
            schemas = components.setdefault("schemas", {})
            schemas["Problem"] = Problem.model_json_schema()
            drop_framework_errors(document)
            if bearer:
                components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
                document["security"] = [{"token": []}]
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]


def drop_framework_errors(document: dict[str, Any]) -> None:
    """Take out the framework's own 422 body, which no route answers with."""
    for methods in document["paths"].values():
        for operation in methods.values():
            if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                del operation["responses"]["422"]
    for unused in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(unused, None)


class ApiServer(uvicorn.Server):
    """A uvicorn server that ends event streams before it waits for open responses."""

    def __init__(self, app: FastAPI, **options: Any) -> None:
        # No access log: it would keep the token of `/?token=...`.
        defaults = {
            "log_level": "warning",
            "access_log": False,
            "server_header": False,
            "timeout_graceful_shutdown": 10,
        }
        super().__init__(uvicorn.Config(app, **{**defaults, **options}))
        self.context: Context = app.state.context

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, end the streams, let other requests finish."""
        self.context.stopping.set()
        await super().shutdown(sockets)
