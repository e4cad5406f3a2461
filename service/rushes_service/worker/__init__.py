"""The worker process: one device, one warm base model, one sample at a time."""
