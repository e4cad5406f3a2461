"""Media files: their names, atomic writing with a receipt, ffmpeg, checks of the picture.

Imports the client package only, never torch; worker, catalogue, sheets and API import it.
"""

from rushes_service.media.naming import sample_path
from rushes_service.media.receipts import read_receipt
from rushes_service.media.writing import Written, write_media

__all__ = ["Written", "read_receipt", "sample_path", "write_media"]
