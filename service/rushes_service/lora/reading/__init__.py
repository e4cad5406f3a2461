"""From a file of weights to typed changes of a model's parameters: formats, names, scales, and everything checked.

Other rooms import `read_lora` and its types from here; nothing here knows an engine or writes a weight.
"""

from rushes_service.lora.reading.read import Lora, LoraReport, facts_of, read_lora

__all__ = ["Lora", "LoraReport", "facts_of", "read_lora"]
