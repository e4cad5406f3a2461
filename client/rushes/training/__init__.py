"""All that runs inside the trainer: `TrainingSampler`, its background outbox, its flags and its cadence.

Imports `client` and everything below it; `integrations` and `cli` may import from here.
"""
