"""Launchers and callbacks for trainers: musubi-tuner, sd-scripts, accelerate, Hugging Face's Trainer, Lightning.

Imports `training` and `trackers` and what lies below them; only `cli` may import from here.
"""
