"""Language models as text encoders: Qwen2.5-VL, Qwen3 and their like. Several families share them.

Rooms of families import it; it imports `models.loading`.
"""
