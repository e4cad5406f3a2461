"""Files in the cache directory: cached conditioning, and files fetched from a store (`s3://...`).

Imports the client package only, never torch; engine, worker, API and CLI import it.
"""
