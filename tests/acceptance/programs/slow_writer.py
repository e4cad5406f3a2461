"""A trainer's writing, one move at a time: reads moves from its standard input, answers each with a line.

begin PATH STEP     write the first half of a checkpoint and leave the file open
end PATH            write the rest and close it
write PATH STEP     write a whole checkpoint
text PATH TEXT      write a small file
rename PATH PATH    give a file or directory another name
delete PATH         delete a file
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import BinaryIO

TENSOR_BYTES = 4096


def checkpoint(step: str) -> bytes:
    """A complete safetensors file with one tensor; `step` is in its metadata unless it is `-`."""
    tensor = {"dtype": "U8", "shape": [TENSOR_BYTES], "data_offsets": [0, TENSOR_BYTES]}
    metadata = {} if step == "-" else {"__metadata__": {"ss_steps": step}}
    header = json.dumps({**metadata, "lora": tensor}).encode()
    return len(header).to_bytes(8, "little") + header + step.encode().ljust(TENSOR_BYTES, b"\0")


def main() -> None:
    """Obey until the input ends."""
    begun: dict[str, tuple[BinaryIO, bytes]] = {}
    for line in sys.stdin:
        move, name, *rest = line.split(maxsplit=2)
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if move == "begin":
            content = checkpoint(rest[0].strip())
            file = path.open("wb")
            file.write(content[: len(content) // 2])
            file.flush()
            begun[name] = file, content[len(content) // 2 :]
        elif move == "end":
            file, content = begun.pop(name)
            file.write(content)
            file.close()
        elif move == "write":
            path.write_bytes(checkpoint(rest[0].strip()))
        elif move == "text":
            path.write_text(rest[0])
        elif move == "rename":
            path.rename(rest[0].strip())
        elif move == "delete":
            path.unlink()
        sys.stdout.write("\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
