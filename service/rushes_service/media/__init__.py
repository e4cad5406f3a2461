"""Pictures and clips on disk: named, written whole or not at all, each with a receipt."""

from rushes_service.media.naming import sample_path
from rushes_service.media.receipts import read_receipt
from rushes_service.media.writing import Written, write_media

__all__ = ["Written", "read_receipt", "sample_path", "write_media"]
