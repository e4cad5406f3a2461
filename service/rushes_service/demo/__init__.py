"""`rushes demo`: a tiny world of coloured shapes, a trainer that learns one more, and a checker that reads clips.

Starts every other part as a process of its own; only the CLI imports it.
"""
