"""Qwen-Image-Edit's encoder of words and pictures: Qwen2.5-VL inside a system prompt, which is cut off again.

Facts are musubi-tuner 0.3.4's (`get_qwen_prompt_embeds_with_image`): the last hidden states without the first 64
tokens. Qwen-Image-Edit reads one picture; its successors all, each called by its number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import QwenImageEditPlusPipeline, QwenImagePipeline
from PIL import Image
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from rushes_service.models.conditioning import Conditioning
from rushes_service.models.encoder import LazyEncoder, headless
from rushes_service.runtime.compat_transformers import PillowQwenProcessor

BEFORE, TOKEN, AFTER = "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"
"""Around a picture, and for each of its tokens."""


class QwenEditText(LazyEncoder):
    """Qwen2.5-VL, reading words beside pictures."""

    parts: ClassVar[tuple[str, ...]] = ("text_encoder", "processor")

    @torch.no_grad()
    def encode(self, text: str, pictures: Sequence[np.ndarray] = (), *, numbered: bool = False) -> Conditioning:
        """Embedding of a text beside `pictures`, uint8 [H, W, 3]: `embeds` [1, n, 3584].

        Without pictures it is Qwen-Image's.

        Args:
            numbered: all pictures are shown, each with its number; else the first alone.
        """
        eyes, words, model = self.loaded
        if not pictures:
            pipe = QwenImagePipeline(None, None, model, words, None)
            embeds, _ = pipe.encode_prompt(text, device=self.device)
            return {"embeds": embeds}
        template = QwenImageEditPlusPipeline(None, None, None, None, None, None)
        names = [f"Picture {number}: " for number in range(1, len(pictures) + 1)] if numbered else [""]
        seen = eyes(images=[Image.fromarray(picture) for picture in pictures[: len(names)]], return_tensors="pt")
        counts = (seen["image_grid_thw"].prod(dim=1) // eyes.merge_size**2).tolist()
        shown = "".join(f"{name}{BEFORE}{TOKEN * count}{AFTER}" for name, count in zip(names, counts, strict=True))
        tokens = words(template.prompt_template_encode.format(f"{shown}{text}"), return_tensors="pt")
        hidden = model(
            **tokens.to(self.device),
            mm_token_type_ids=(tokens["input_ids"] == words.convert_tokens_to_ids(TOKEN)).int(),
            pixel_values=seen["pixel_values"].to(self.device, self.dtype),
            image_grid_thw=seen["image_grid_thw"].to(self.device),
            output_hidden_states=True,
        ).hidden_states[-1]
        model.rope_deltas = None  # for a text that goes on; an encoder that is kept would keep it on the GPU
        return {"embeds": hidden[:, template.prompt_template_encode_start_idx :]}

    def load(self) -> Any:
        eyes, words = (self.part("processor", kind) for kind in (PillowQwenProcessor, AutoTokenizer))
        return eyes, words, self.encoder("text_encoder", Qwen2_5_VLForConditionalGeneration, needed=headless)
