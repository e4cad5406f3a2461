"""Base models: `registry` finds the class that samples a family, `base` says what such a class provides.

Each family lies in a room of its own (`wan`, `hunyuan`, `flux` ...), listed in `rooms`; `loading`, `inputs`, `vae`,
`encoders` and `llm` hold what rooms share. Rooms may import those and `lora` below them, but not each other, except
that FramePack builds on HunyuanVideo and Wan2.2 on Wan.
"""
