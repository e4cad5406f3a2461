"""Lua that reads much in one call. Each looks at a bounded piece, so that Redis answers others in between."""

from __future__ import annotations

from typing import Any

from rushes.client.client import Client
from rushes.wire.connection import reachable
from rushes.wire.scripts import script

PACKAGE = "rushes_service.catalogue"


def call(client: Client, name: str, *arguments: str | int) -> Any:
    """What the script `lua/<name>.lua` returns.

    Raises:
        QueueUnavailable: Redis cannot be reached.
    """
    with reachable(client.url):
        return client.redis.register_script(script(name, package=PACKAGE))(args=arguments)
