"""Child processes: the supervisor of `rushes up`, the embedded Valkey server, a probe for GPUs.

Imports the client package only, never torch; doctor, demo and CLI import it.
"""
