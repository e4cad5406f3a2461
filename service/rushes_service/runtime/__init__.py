"""Helpers around torch that know no model: devices and their errors, memory, float8, pixels, private names of torch.

Imports no other room of the service; lora, models and engine import from here.
"""
