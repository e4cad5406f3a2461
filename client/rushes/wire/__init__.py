"""What lies in Redis and travels between versions: job and result types, keys, Lua scripts, connections.

Imports only `rushes.errors`, `_compat` and the private helpers; every other room may import from here.
"""
