"""What a trainer must know of each model family without torch: defaults, rounding, inputs, files.

There is a module for each family, and `table` has all of them. Modules here import `wire` only.
"""
