"""The facts of each family, a module for those that belong together. `families.table` lists the modules.

Nothing here imports torch: trainers read it.
"""
