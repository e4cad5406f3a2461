"""The engine: it makes samples on one device, with fallbacks when memory runs out and locks for its two threads.

It may import models, lora, runtime and storage; only worker and cli import it.
"""
