"""How the fields of `Prompt` are written in a prompt line. Messages name the options by these."""

from __future__ import annotations

from collections.abc import Mapping

OPTION_OF_FIELD: Mapping[str, str] = {
    "width": "--w",
    "height": "--h",
    "frame_count": "--f",
    "seed": "--d",
    "sample_steps": "--s",
    "guidance_scale": "--g",
    "discrete_flow_shift": "--fs",
    "cfg_scale": "--l",
    "negative_prompt": "--n",
    "image_path": "--i",
    "end_image_path": "--ei",
    "control_video_path": "--cn",
    "control_image_path": "--ci",
    "one_frame": "--of",
    "lora_multiplier": "--m",
    "drift_limit": "--dl",
}

PATH_FIELDS = ("image_path", "end_image_path", "control_video_path", "control_image_path")
"""Fields that name files."""
