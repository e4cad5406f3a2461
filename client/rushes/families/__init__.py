"""What a trainer must know of each model family without torch: defaults, rounding, inputs, files.

`rows` has them, and `table` lists them. Modules here import `wire` only.
"""
