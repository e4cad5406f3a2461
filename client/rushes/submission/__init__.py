"""From one checkpoint and a prompt file to the jobs of a submission, and the spool where it waits for Redis.

Imports `wire`, `prompts`, `families` and `checkpoints`; `client` and everything above it may import from here.
"""
