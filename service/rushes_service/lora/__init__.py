"""LoRA files: read, checked against a model, merged into its weights and taken out again exactly."""

from rushes_service.lora.merge import LoraMerger
from rushes_service.lora.reading import Delta, Lora, LoraReport, locate, read_lora
from rushes_service.lora.targets import LoraTarget, NameTable, name_table

__all__ = ["Delta", "Lora", "LoraMerger", "LoraReport", "LoraTarget", "NameTable", "locate", "name_table", "read_lora"]
