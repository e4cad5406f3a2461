"""What is in a single file of weights: its header, its kind, its names and its numbers. Knows no family.

Modules here import `lora.targets` and `models.rooms`, and nothing else of the service.
"""
