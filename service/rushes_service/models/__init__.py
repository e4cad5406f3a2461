"""Base models: `registry` finds the class that samples a family, `base` says what such a class provides.

Each family lies in a room of its own (`wan`, `hunyuan`, `framepack`, `flux`), listed in `rooms`; `loading`, `inputs`,
`vae` and `encoders` hold what rooms share. Rooms may import those and `lora` below them, but not each other, except
that FramePack builds on HunyuanVideo.
"""
