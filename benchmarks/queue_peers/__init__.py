"""Queues measured by `queue_latency`: one module each, with `PACKAGES`, `command()` and `producer(url)`.

`command()` starts a worker whose task only says that it has begun; `producer(url)` is a function that enqueues a task
for a key and returns the moment just before, in nanoseconds of the clock that all processes of a machine share.
"""
