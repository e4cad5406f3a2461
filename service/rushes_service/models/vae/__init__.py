"""What the VAEs of several families share: tiling, and the VAE of latent diffusion with its files.

Rooms of families import it; it imports `models.loading`.
"""
