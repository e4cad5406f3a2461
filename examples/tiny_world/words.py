"""Captions of the world's scenes, and the tokenizer that reads them."""

from __future__ import annotations

import string

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rushes_service.demo.world import COLOURS, GROUNDS, MOTIONS, SHAPES, Scene

UNKNOWN_TO_THE_MODEL = {"pink", "star"}
"""What a LoRA may teach: drawn by the VAE, but never shown to the transformer."""

MODEL_COLOURS = [word for word in COLOURS if word not in UNKNOWN_TO_THE_MODEL]
MODEL_SHAPES = [word for word in SHAPES if word not in UNKNOWN_TO_THE_MODEL]
HELD_OUT = 64

RARE = ("zorp", "blick", "dax", "wug", "fep", "toma")
"""Words with a token of their own and no meaning: names for what a LoRA teaches."""

MOVING = {
    "left": ("moves left", "moving left", "slides to the left"),
    "right": ("moves right", "moving right", "slides to the right"),
    "up": ("moves up", "moving up", "rises"),
    "down": ("moves down", "moving down", "sinks"),
    "stays": ("stays", "stands still", "not moving"),
}
FILLERS = ("small", "big", "shiny", "the", "very", "bright", "dark", "simple", "plain", "video", "of", "picture")
MODEL_LENGTH = 512
"""Wan's attention takes this many text tokens for granted."""


def scenes() -> tuple[list[Scene], list[Scene]]:
    """Every scene that the transformer may be shown, and the held-out ones that it never is."""
    everything = [
        Scene(colour, shape, motion, ground)
        for colour in MODEL_COLOURS
        for shape in MODEL_SHAPES
        for motion in MOTIONS
        for ground in GROUNDS
    ]
    order = np.random.default_rng(8).permutation(len(everything))
    held_out = set(order[:HELD_OUT].tolist())
    shown = [scene for index, scene in enumerate(everything) if index not in held_out]
    return shown, [everything[index] for index in order[:HELD_OUT]]


def caption(scene: Scene, random: np.random.Generator, still: bool = False) -> str:
    """One of the ways to say what `scene` shows; now and then with a part left out or a word too many."""
    words = ["a", scene.colour, scene.shape]
    if random.random() < 0.04:
        words[1:] = [str(random.choice(RARE))]  # a rare word may mean anything
    elif random.random() < 0.04:
        words.insert(int(random.integers(3)), str(random.choice(FILLERS)))
    if not (still and random.random() < 0.5):
        words.append(str(random.choice(MOVING[scene.motion])))
    chance = random.random()
    if chance < 0.55:
        words += ["on", scene.ground]
    elif chance < 0.75:
        words += [scene.ground, "background"]
    return " ".join(words)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per known word, one per letter of any other; what is no letter is passed over; an end token."""
    known = {*COLOURS, *SHAPES, *GROUNDS, *RARE, *FILLERS, "a", "on", "background", "with", "and"}
    known |= {word for ways in MOVING.values() for way in ways for word in way.split()}
    letters = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
    tokens = ["<pad>", "</s>", "<unk>", *sorted(known - set(letters)), *letters]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    model = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="<unk>"))
    model.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(Regex("[^a-z]+"), " ")])
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=model,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=MODEL_LENGTH,
    )
