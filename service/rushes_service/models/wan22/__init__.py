"""Wan2.2: two experts from words or from a picture, and the small model with a VAE of its own. `room` lists them.

Imports Wan's room, whose samplers and names it builds on; others reach it through `models.rooms`.
"""
