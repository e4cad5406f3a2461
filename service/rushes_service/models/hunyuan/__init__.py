"""HunyuanVideo and SkyReels V1: their samplers, VAE, names, files and tiny models. `room` lists them.

FramePack's room imports the VAE, the names and the tiny parts; others reach this room through `models.rooms`.
"""
