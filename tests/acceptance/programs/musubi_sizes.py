"""musubi-tuner's models in the sizes of a tiny one, which it knows by heart in those of the published ones.

Each function here takes the configuration of a diffusers transformer and puts its numbers where musubi-tuner has its
own. Nothing else of it is changed.
"""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

Config = Mapping[str, Any]


def width(config: Config) -> int:
    return config["num_attention_heads"] * config["attention_head_dim"]


def given(owner: Any, name: str, **sizes: Any) -> None:
    """From now on `owner.name(...)` is called with these arguments, whatever its caller says."""
    original = getattr(owner, name)

    @functools.wraps(original, updated=())
    def sized(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **{**kwargs, **sizes})

    setattr(owner, name, sized)


def rewritten(function: Callable[..., Any], changes: Mapping[str, str]) -> Callable[..., Any]:
    """A function that has such things in its text, compiled again from another text."""
    text = textwrap.dedent(inspect.getsource(function))
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    names = dict(vars(inspect.getmodule(function)))
    exec(compile(text, inspect.getfile(function), "exec"), names)
    return names[function.__name__]


def wan(config: Config) -> None:
    from musubi_tuner.wan.configs import WAN_CONFIGS
    from musubi_tuner.wan.modules import model

    names = {
        "ffn_dim": "ffn_dim",
        "freq_dim": "freq_dim",
        "num_heads": "num_attention_heads",
        "num_layers": "num_layers",
    }
    for task in WAN_CONFIGS.values():
        task.update({"dim": width(config), **{ours: config[theirs] for ours, theirs in names.items()}})
    given(model.WanModel, "__init__", text_dim=config["text_dim"])


def hunyuan(config: Config) -> None:
    from musubi_tuner.hunyuan_model import models

    models.HUNYUAN_VIDEO_CONFIG["HYVideo-T/2-cfgdistill"].update(
        mm_double_blocks_depth=config["num_layers"],
        mm_single_blocks_depth=config["num_single_layers"],
        rope_dim_list=config["rope_axes_dim"],
        hidden_size=width(config),
        heads_num=config["num_attention_heads"],
    )
    texts = {"text_states_dim": config["text_embed_dim"], "text_states_dim_2": config["pooled_projection_dim"]}
    given(models, "load_dit_model", **texts)
    given(models, "SingleTokenRefiner", depth=config["num_refiner_layers"])
    models.get_cu_seqlens = rewritten(models.get_cu_seqlens, {'"cuda"': "text_mask.device"})


def framepack(config: Config) -> None:
    from musubi_tuner.frame_pack import hunyuan_video_packed as packed

    given(packed.HunyuanVideoTransformer3DModelPacked, "__init__", **{name: config[name] for name in FRAMEPACK})


FRAMEPACK = (
    "num_attention_heads",
    "attention_head_dim",
    "num_layers",
    "num_single_layers",
    "num_refiner_layers",
    "rope_axes_dim",
    "text_embed_dim",
    "pooled_projection_dim",
    "image_proj_dim",
)


def blocks(config: Config) -> dict[str, Any]:
    """Names that both FLUX models of musubi-tuner have."""
    return {
        "context_in_dim": config["joint_attention_dim"],
        "hidden_size": width(config),
        "num_heads": config["num_attention_heads"],
        "depth": config["num_layers"],
        "depth_single_blocks": config["num_single_layers"],
        "axes_dim": config["axes_dims_rope"],
    }


def flux(config: Config) -> None:
    from musubi_tuner.flux import flux_models

    known = flux_models.configs_flux_dev_context
    sizes = {**blocks(config), "vec_in_dim": config["pooled_projection_dim"]}
    flux_models.configs_flux_dev_context = replace(known, params=replace(known.params, **sizes))


def flux2(config: Config) -> None:
    from musubi_tuner.flux_2 import flux2_utils

    for name, known in flux2_utils.FLUX2_MODEL_INFO.items():
        sized = replace(known, params=replace(known.params, **blocks(config)))
        flux2_utils.FLUX2_MODEL_INFO[name] = sized


def qwen(config: Config) -> None:
    from musubi_tuner.qwen_image import qwen_image_model

    names = ("num_layers", "attention_head_dim", "num_attention_heads", "joint_attention_dim", "axes_dims_rope")
    given(qwen_image_model.QwenImageTransformer2DModel, "__init__", **{name: config[name] for name in names})


def zimage(config: Config) -> None:
    from musubi_tuner.zimage import zimage_config

    for name in ("dim", "n_layers", "n_refiner_layers", "n_heads", "n_kv_heads", "cap_feat_dim"):
        setattr(zimage_config, f"DEFAULT_TRANSFORMER_{name.upper()}", config[name])
    zimage_config.ROPE_AXES_DIMS, zimage_config.ROPE_AXES_LENS = config["axes_dims"], config["axes_lens"]


def hunyuan15(config: Config) -> None:
    from musubi_tuner.hunyuan_video_1_5 import hunyuan_video_1_5_models as models
    from musubi_tuner.hunyuan_video_1_5 import hunyuan_video_1_5_vae as vae

    kind = models.HunyuanVideo_1_5_DiffusionTransformer
    glyphs = "in_dim={}, out_dim={}, hidden_dim={},".format
    latents, hidden = config["out_channels"], config["glyph_hidden_dim"]
    numbers = {
        "self.in_channels = 32": f"self.in_channels = {latents}",
        "self.out_channels = 32": f"self.out_channels = {latents}",
        "self.rope_dim_list = [16, 56, 56]": f"self.rope_dim_list = {config['rope_axes_dim']}",
        "self.vision_states_dim = 1152": f"self.vision_states_dim = {config['image_embed_dim']}",
        "self.hidden_size = 2048": f"self.hidden_size = {width(config)}",
        "self.heads_num = 16": f"self.heads_num = {config['num_attention_heads']}",
        "mm_double_blocks_depth = 54": f"mm_double_blocks_depth = {config['num_layers']}",
        "text_states_dim = 3584": f"text_states_dim = {config['text_embed_dim']}",
        "self.heads_num, depth=2": f"self.heads_num, depth={config['num_refiner_layers']}",
        glyphs(1472, 2048, 2048): glyphs(config["text_embed_2_dim"], hidden, hidden),
        "super().__init__()": "nn.Module.__init__(self)",  # the former wants to be compiled inside the class
    }
    kind.__init__ = rewritten(kind.__init__, numbers)
    vae.VAE_LATENT_CHANNELS = latents


SIZES: Mapping[str, Callable[[Config], None]] = {
    "wan": wan,
    "hv": hunyuan,
    "fpack": framepack,
    "flux_kontext": flux,
    "flux_2": flux2,
    "qwen_image": qwen,
    "zimage": zimage,
    "hv_1_5": hunyuan15,
}
"""How a script's name begins, before `_train` -> what gives its model the sizes of a configuration."""
