"""LoRA files: read, checked against a model, merged into its weights and taken out again exactly."""

from rushes_service.lora.changes import Change, LowRank, Patch
from rushes_service.lora.files import locate
from rushes_service.lora.merge import LoraMerger
from rushes_service.lora.reading import Lora, LoraReport, read_lora
from rushes_service.lora.targets import LoraTarget, NameTable, name_table

__all__ = [
    "Change",
    "Lora",
    "LoraMerger",
    "LoraReport",
    "LoraTarget",
    "LowRank",
    "NameTable",
    "Patch",
    "locate",
    "name_table",
    "read_lora",
]
