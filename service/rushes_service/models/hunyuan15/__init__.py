"""HunyuanVideo 1.5: its samplers, transformer, VAE, text encoders, names, files and tiny models. `room` lists them.

Nothing outside this room imports it except by name, through `models.rooms`.
"""
