"""Kandinsky 5: its samplers, files and tiny models. `room` lists them.

Nothing outside this room imports it except by name, through `models.rooms`.
"""
