"""A TCP proxy that stands between a client and a real server, for networks that are slow, stuck or encrypted."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LOCALHOST = "127.0.0.1"


class Proxy:
    """Passes bytes on, each piece after `delay_s` seconds, and none at all while it is stuck."""

    def __init__(self, target_port: int, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.delay_s = 0.0
        self.port = port
        self.connections = 0
        self._target_port = target_port
        self._unanswered: bytes | None = None
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)

    @property
    def url(self) -> str:
        """Where a client that is to go through here finds Redis."""
        return f"{'rediss' if self._tls else 'redis'}://{LOCALHOST}:{self.port}/0"

    def stick(self) -> None:
        """Take bytes, and deliver none."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def flow(self) -> None:
        """Deliver again."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    def lose_answer_to(self, command: bytes) -> None:
        """Pass the next request that holds `command` on, and break its connection instead of delivering the answer."""
        self._unanswered = command

    async def _serve(self) -> None:
        self._flowing.set()
        self._ended = asyncio.Event()
        server = await asyncio.start_server(self._connected, LOCALHOST, self.port, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._ended.wait()
        server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.CancelledError):
            there, back = await asyncio.open_connection(LOCALHOST, self._target_port)
            lost = asyncio.Event()
            await asyncio.gather(self._pump(reader, back, asked=lost), self._pump(there, writer, lost=lost))

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        *,
        asked: asyncio.Event | None = None,
        lost: asyncio.Event | None = None,
    ) -> None:
        try:
            while piece := await source.read(65536):
                if asked is not None and self._unanswered is not None and self._unanswered in piece:
                    self._unanswered = None
                    asked.set()
                if lost is not None and lost.is_set():
                    return
                await asyncio.sleep(self.delay_s)
                await self._flowing.wait()
                sink.write(piece)
                await sink.drain()
        finally:
            sink.close()

    def __enter__(self) -> Proxy:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(60)
        self._loop.close()


@contextmanager
def encrypted(target_port: int, directory: Path) -> Iterator[tuple[Proxy, Path]]:
    """A proxy that speaks TLS to its clients; and the file of the authority that signed its certificate."""
    authority, chain, key = certificates(directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    with Proxy(target_port, context) as proxy:
        yield proxy, authority


def certificates(directory: Path) -> tuple[Path, Path, Path]:
    """Files of an authority made for this test, of a certificate that it signed for this machine, and of its key."""
    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority_name, server_name = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("A lab's own authority", "redis")
    )
    authority = begun(authority_name, authority_name, authority_key).add_extension(x509.BasicConstraints(True, 0), True)
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(LOCALHOST))])
    server = begun(server_name, authority_name, server_key).add_extension(here, False)
    files = directory / "authority.pem", directory / "redis.pem", directory / "redis.key"
    for path, unsigned in zip(files, (authority, server), strict=False):
        signed = unsigned.sign(authority_key, hashes.SHA256())
        path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    files[2].write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return files


def begun(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    """A certificate that is good for a day."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )
