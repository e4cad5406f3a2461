"""The dependencies of routes, built once by `create_app` and injected by FastAPI."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import Depends, Request

from rushes.client.client import Client
from rushes_service.api.background.feed import Feed
from rushes_service.api.background.metrics import Metrics
from rushes_service.api.background.thumbnails import Thumbnails
from rushes_service.api.http.paths import Roots
from rushes_service.ranking.contests import Contests
from rushes_service.settings import Settings
from rushes_service.storage.path_map import PathMap
from rushes_service.storage.staged import StagedFiles


@dataclass(frozen=True)
class Context:
    """The parts of one running API.

    `stopping` is set when the server begins to shut down, so that event streams end by themselves.
    """

    settings: Settings
    client: Client
    roots: Roots
    thumbnails: Thumbnails
    metrics: Metrics
    staged: StagedFiles
    paths: PathMap
    """From the paths of trainers on other machines to those of this one."""

    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    feed: Feed = field(init=False)
    contests: Contests = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "feed", Feed(self.settings.redis_url, self.stopping))
        object.__setattr__(self, "contests", Contests(self.client))


def context_of(request: Request) -> Context:
    """The context of the app that serves this request."""
    return cast(Context, request.app.state.context)


def client_of(request: Request) -> Client:
    """The queue's client; one for all threads."""
    return context_of(request).client


InContext = Annotated[Context, Depends(context_of)]
Queue = Annotated[Client, Depends(client_of)]
