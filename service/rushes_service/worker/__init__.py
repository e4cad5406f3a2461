"""The worker process: one device, one loaded base model, one sample at a time (plus one that is being written).

Imports queue, storage, media and settings; the engine is passed in. `cli.worker` builds it.
"""
