"""LoRA files: read, checked against a model, merged into its weights and taken out again exactly.

    keys, kinds, families     what the keys of a file say; no torch needed for keys and families
    files, reading, whole     from a file to changes of parameters
    targets, changes          where they go, and what they are
    merge, unmerged, rack     bringing a model's weights to what a sample wants
    inspection, outline       looking at a file without a model

Nothing is imported here: looking at a file must not load torch.
"""
