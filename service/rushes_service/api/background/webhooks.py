"""Webhooks: the end of each sample is sent to one address, signed by the Standard Webhooks specification.

The address is a setting of the server and never part of a request: nobody can make it call others.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import threading
import time
import urllib.error
import urllib.request

from rushes.errors import ConfigError
from rushes.wire.results import JobState
from rushes_service.api.background.events_consumer import QueueEvent

log = logging.getLogger(__name__)

GROUP = "webhooks"

ENDS = frozenset(state.value for state in JobState if state.terminal)

SECRET_PREFIX = "whsec_"
MIN_SECRET_BYTES = 16

TIMEOUT_S = 10
PAUSES_S = (1, 5, 30)
"""Waits between tries. An endpoint that is away for longer reads the samples themselves."""


class Webhooks:
    """Sends every end of a sample to one address.

    Args:
        secret: `whsec_` and base64, as Standard Webhooks writes them.

    Raises:
        ConfigError: the secret or the address cannot be used.
    """

    def __init__(self, address: str, secret: str | None) -> None:
        if not address.startswith(("http://", "https://")):
            raise ConfigError(f"RUSHES_WEBHOOK_URL is {address!r}: it must begin with http:// or https://")
        self.address = address
        self._key = key_of(secret)
        self.stopping = threading.Event()

    def receive(self, event: QueueEvent) -> bool:
        """Send an event if it is the end of a sample; tried a few times, then given up with a line in the log.

        False when the server stops before it is delivered or given up.
        """
        if event.kind not in ENDS:
            return True
        body = json.dumps(
            {"type": f"sample.{event.kind}", "timestamp": iso(event.at), "data": {**event.data, "id": event.sample}},
            ensure_ascii=False,
        ).encode()
        for pause_s in (*PAUSES_S, None):
            problem = self._send(event.id, body)
            if problem is None:
                return True
            if pause_s is None:
                break
            log.info("webhook %s: %s; trying again in %d s", event.id, problem, pause_s)
            if self.stopping.wait(pause_s):
                return False
        log.warning("webhook %s (%s of %s) was not delivered: %s", event.id, event.kind, event.sample, problem)
        return True

    def _send(self, message_id: str, body: bytes) -> str | None:
        """The reason of a failure, or None."""
        stamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "rushes",
            "webhook-id": message_id,
            "webhook-timestamp": stamp,
            "webhook-signature": signature(self._key, message_id, stamp, body),
        }
        request = urllib.request.Request(self.address, body, headers, method="POST")
        try:
            with DIRECT.open(request, timeout=TIMEOUT_S):
                return None
        except urllib.error.HTTPError as error:
            return f"{self.address} answered {error.code}"
        except (OSError, ValueError) as error:
            return f"{self.address} cannot be reached: {error}"


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A webhook goes to the address that was set and to no other."""

    def redirect_request(self, *_: object, **__: object) -> None:
        """Refuse."""
        return


DIRECT = urllib.request.build_opener(NoRedirect)


def key_of(secret: str | None) -> bytes:
    """The signing key.

    Raises:
        ConfigError: there is none, or it is not base64 of enough bytes.
    """
    try:
        key = base64.b64decode((secret or "").removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:
        key = b""
    if len(key) < MIN_SECRET_BYTES:
        raise ConfigError(
            "RUSHES_WEBHOOK_SECRET must be whsec_ and the base64 of at least 16 bytes: "
            "echo whsec_$(openssl rand -base64 24)"
        )
    return key


def signature(key: bytes, message_id: str, stamp: str, body: bytes) -> str:
    """The `webhook-signature` of a message (version 1: HMAC-SHA256)."""
    signed = f"{message_id}.{stamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def iso(seconds: float) -> str:
    """A time as ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
