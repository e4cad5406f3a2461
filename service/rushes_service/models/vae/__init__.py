"""Latents to pixels in tiles: mechanisms that the VAEs of several families share. Imports no family."""
