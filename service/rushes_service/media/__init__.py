"""Media files: their names, atomic writing with a receipt, ffmpeg, checks of the picture.

Imports the client package only, never torch (`naming` and `receipts` no numpy either); worker, catalogue, sheets and
API import it.
"""
