"""Krea 2: its sampler, names, files and tiny model. `room` lists them.

Nothing outside this room imports it except by name, through `models.rooms`.
"""
