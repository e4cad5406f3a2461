"""What Wan computes in float32 whatever the transformer's precision: the modulation by time, and guidance.

diffusers rounds both to the transformer's precision; the reference sampler does not (musubi-tuner 0.3.4,
wan/modules/model.py and wan_train_network.py). In float32 there is no difference.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import nn

from rushes_service.runtime.compat_diffusers_models import WanTimeTextImageEmbedding


class TimeInFloat32(WanTimeTextImageEmbedding):
    """The embedding of timestep, text and image tokens, whose part for the timestep is not rounded."""

    def forward(
        self,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_image: torch.Tensor | None = None,
        timestep_seq_len: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        waves = self.timesteps_proj(timestep)
        if timestep_seq_len is not None:
            waves = waves.unflatten(0, (-1, timestep_seq_len))
        time = self.time_embedder(waves)
        image = encoder_hidden_states_image
        if image is not None:
            image = self.image_embedder(image)
        return time, self.time_proj(self.act_fn(time)), self.text_embedder(encoder_hidden_states), image


def keep_float32(model: WanTransformer3DModel) -> WanTransformer3DModel:
    """Make `model` modulate by time in float32, and give its output in float32; its modules keep their names.

    The output is what the transformer's precision makes it; but then guidance multiplies the difference of two
    outputs, and the scheduler adds it up.
    """
    embedder = model.condition_embedder
    embedder.__class__ = TimeInFloat32
    for part in (embedder.time_embedder, embedder.time_proj):
        part.float()
    model.register_forward_hook(widened)
    return model


def widened(_module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> Any:
    """A forward hook: the tuple that pipelines ask for, its tensors in float32."""
    return tuple(tensor.float() for tensor in output) if isinstance(output, tuple) else output
