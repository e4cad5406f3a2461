"""Ids of samples: the same request has the same id wherever and whenever it is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rushes.wire.base import digest
from rushes.wire.jobs import ExtraLora, NoiseSource, Prompt, VaeOptions
from rushes.wire.models import Expert, ModelSpec


def job_id(
    *,
    run: str,
    model: ModelSpec,
    checkpoint_fingerprint: str,
    prompt: Prompt,
    prompt_index: int,
    step: int,
    loras: Sequence[ExtraLora] = (),
    allow_partial_lora: bool = False,
    allow_other_family: bool = False,
    expert: Expert | None = None,
    vae: VaeOptions | None = None,
    output: tuple[str, str | None] | None = None,
    noise: NoiseSource = "device",
    draft: float | None = None,
) -> str:
    """The id of a sample: the same request has the same id wherever and whenever it is made.

    `prompt` is taken as asked for, before a random seed is drawn, so that submitting the same file
    twice makes one sample. Extra LoRAs count by content and strength, wherever they lie. 32 hex digits.

    Args:
        expert: see `Checkpoint.expert`.
        output: output directory and output name, unless `run` is made from them.
        draft: see `SampleJob.draft`.
    """
    asked: list[Any] = [run, model.fingerprint, checkpoint_fingerprint, step, prompt_index]
    # A limit changes no picture: setting one makes no sample again.
    asked.append(prompt.model_dump(mode="json", exclude_defaults=True, exclude={"drift_limit"}))
    # Appended only where used: ids of samples without them are those of earlier versions.
    if loras:
        asked.append(["loras", *(lora.identity for lora in loras)])
    if allow_partial_lora:
        asked.append("allow_partial_lora")
    if allow_other_family:
        asked.append("allow_other_family")
    if expert is not None:
        asked.append(["expert", expert])
    if vae is not None and vae != VaeOptions():
        asked.append(["vae", vae.model_dump(mode="json", exclude_defaults=True)])
    if output is not None:
        asked.append(["output", *output])
    if noise != "device":
        asked.append(["noise", noise])
    if draft is not None:
        asked.append(["draft", draft])
    return digest(asked, digits=32)
