"""FramePack: its samplers, sections, transformer, integrator, files and tiny model. `room` lists them.

Imports HunyuanVideo's room, whose VAE and encoders it shares; others reach it through `models.rooms`.
"""
