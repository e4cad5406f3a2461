"""A real S3 server: moto's, in a process of its own, spoken to over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import boto3
from botocore.config import Config

BUCKET = "rushes"

SERVER = """
import sys
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=int(sys.argv[1]), verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""


@dataclass
class S3:
    """One running server, with one empty bucket; `variables` lead any process to it."""

    port: int
    client: Any = field(init=False)

    def __post_init__(self) -> None:
        secrets = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        config = Config(retries={"max_attempts": 1})
        self.client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self.port}", config=config, **secrets)
        self.client.create_bucket(Bucket=BUCKET)

    @property
    def variables(self) -> Mapping[str, str]:
        return variables(self.port)

    def keys(self) -> list[str]:
        """Names of all objects."""
        return sorted(entry["Key"] for entry in self.client.list_objects_v2(Bucket=BUCKET).get("Contents", []))


def variables(port: int) -> Mapping[str, str]:
    """The environment of a process that is to use the server at `port`."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }


@contextmanager
def s3_server(port: int = 0) -> Iterator[S3]:
    """A server that ends with the context."""
    command = [sys.executable, "-c", SERVER, str(port)]
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdin and process.stdout
    try:
        yield S3(int(process.stdout.readline()))
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()
