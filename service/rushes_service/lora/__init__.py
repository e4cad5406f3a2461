"""LoRA files: read, checked against a model, merged into its weights and taken out again exactly.

    keys, families, config    what the keys and the configuration of a file say, without torch
    kinds                     what a module's tensors mean
    files, reading, whole     from a file to changes of parameters
    targets, changes          where they go, and what they are
    merge, unmerged, rack     bringing a model's weights to what a sample wants
    inspection, norms         looking at a file without a model and without torch
    outline                   which modules a family has

Nothing is imported here: looking at a file must not load torch.
"""
