"""Checkpoint files: their headers, snapshots that survive a rotation, adapters, and stores that machines share.

Imports `rushes.wire` and what lies below it, and knows no Redis; everything from `submission` upwards may import from
here.
"""
