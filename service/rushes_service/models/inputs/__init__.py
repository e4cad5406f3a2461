"""Pictures and control clips that prompts name, opened safely and brought to 8 bits and to size.

Families import `images` and `control`; nothing here knows a model.
"""
