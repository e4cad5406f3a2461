"""Receipts: how a file was made, beside it as JSON and inside it as metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from rushes.errors import OutputError
from rushes_service.media.ffmpeg import read_comment

PNG_KEY = "rushes"


def to_text(receipt: Mapping[str, Any], indent: int | None = None) -> str:
    """A receipt as JSON."""
    return json.dumps(receipt, ensure_ascii=False, indent=indent)


def png_info(receipt: str) -> PngInfo:
    """PNG metadata that holds `receipt` (iTXt, compressed)."""
    info = PngInfo()
    info.add_itxt(PNG_KEY, receipt, zip=True)
    return info


def receipt_path(media: Path) -> Path:
    """The receipt beside a media file."""
    return media.with_suffix(".json")


def noise_origin(receipt: Mapping[str, Any]) -> str | None:
    """What drew a sample's noise: `cpu`, or the name of its GPU; None where the receipt does not say."""
    if receipt.get("noise") == "cpu":
        return "cpu"
    device = str(receipt.get("device") or "")  # "cpu", or "cuda:0 (NVIDIA H200)"
    _, _, named = device.partition(" (")
    return named.removesuffix(")") or device or None


def read_receipt(path: Path) -> dict[str, Any]:
    """The receipt of a sample, from its `.json`, or out of the `.png` or `.mp4` itself.

    Raises:
        OutputError: the file holds none, or cannot be read.
    """
    try:
        text = {".json": read_json, ".png": read_png, ".mp4": read_comment}[path.suffix.lower()](path)
        receipt = json.loads(text) if text is not None else None
    except FileNotFoundError:
        raise OutputError(f"{path}: there is no such file") from None
    except KeyError:
        raise OutputError(f"{path}: receipts are in .json, .png and .mp4 files") from None
    except (OSError, ValueError, RecursionError, UnidentifiedImageError) as error:
        raise OutputError(f"{path}: its receipt cannot be read: {error}") from error
    if not isinstance(receipt, dict):
        raise OutputError(f"{path} holds no receipt; was it made by another program?")
    return receipt


def read_json(path: Path) -> str:
    """Text of a receipt file."""
    return path.read_text(encoding="utf-8")


def read_png(path: Path) -> str | None:
    """Receipt in a PNG's metadata, or None."""
    with Image.open(path, formats=("PNG",)) as image:
        return getattr(image, "text", {}).get(PNG_KEY)
