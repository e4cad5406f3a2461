"""From what a job names (a directory, a hub repository, single files) to modules on the CPU. Knows no family.

Rooms import it; it finds what they declare through `models.rooms`, by name.
"""
