"""LoRA files and the weights that they change: `reading` makes changes out of a file, `merge` brings them into a model.

`manager` is what the engine uses; families state their module names with `targets`.
"""
