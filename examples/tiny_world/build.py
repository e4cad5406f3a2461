"""Puts the trained parts together as a `WanPipeline` directory in bfloat16, as Rushes and diffusers load it.

python examples/tiny_world/build.py --work work/ --to model/
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from transformers import UMT5EncoderModel
from words import tokenizer

from rushes_service.models.wan.tiny import save

FLOW_SHIFT = 3.0


def main() -> None:
    """Write the directory."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="where vae.py and text_to_video.py have put theirs")
    parser.add_argument("--to", type=Path, required=True, help="the directory to write")
    args = parser.parse_args()
    pipe = WanPipeline(
        tokenizer=tokenizer(),
        text_encoder=UMT5EncoderModel.from_pretrained(args.work / "text_encoder"),
        transformer=WanTransformer3DModel.from_pretrained(args.work / "transformer"),
        vae=AutoencoderKLWan.from_pretrained(args.work / "vae"),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT
        ),
    )
    for part in (pipe.text_encoder, pipe.transformer, pipe.vae):
        for tensor in part.parameters():
            tensor.data = tensor.data.to(torch.bfloat16).contiguous()
    save(pipe, args.to)
    for config in args.to.glob("*/config.json"):
        fields = json.loads(config.read_text())
        fields.pop("_name_or_path", None)  # a path of this machine
        config.write_text(json.dumps(fields, indent=2) + "\n")


if __name__ == "__main__":
    main()
