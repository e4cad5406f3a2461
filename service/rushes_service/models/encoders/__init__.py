"""Text and image encoders, each loaded for one prompt and freed again, and how their single files are read.

Rooms of families import it; it imports `models.loading`, `models.inputs` and `models.conditioning`.
"""
