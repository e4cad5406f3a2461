"""The training clips of the demo's LoRA: a concept that the model does not know, and some that it knows.

The concept, a "zorp", is a pink star; neither the colour nor the shape is in the words that the model knows. The other
clips, with the captions the model was trained on, keep the rest of its world as it is.
"""

from __future__ import annotations

import numpy as np

from rushes_service.demo.world import COLOURS, GROUNDS, MOTIONS, SHAPES, Pixels, Scene, draw

CONCEPT = "zorp"
CONCEPT_COLOUR, CONCEPT_SHAPE = "pink", "star"
FAMILIAR = 0.25
"""Share of clips with concepts that the model knows."""


def make_clips(count: int, frames: int, seed: int) -> tuple[list[str], Pixels]:
    """`count` captions and their clips, float32 [count, 3, frames, 64, 64] in -1..1."""
    random = np.random.default_rng(seed)
    scenes = [any_scene(random, familiar=index < FAMILIAR * count) for index in range(count)]
    return [caption(scene) for scene in scenes], draw(scenes, frames, random)


def any_scene(random: np.random.Generator, *, familiar: bool) -> Scene:
    """A random scene of the concept, or of one that the model knows."""
    motion, ground = str(random.choice(list(MOTIONS))), str(random.choice(list(GROUNDS)))
    if not familiar:
        return Scene(CONCEPT_COLOUR, CONCEPT_SHAPE, motion, ground)
    colours = [colour for colour in COLOURS if colour != CONCEPT_COLOUR]
    shapes = [shape for shape in SHAPES if shape != CONCEPT_SHAPE]
    return Scene(str(random.choice(colours)), str(random.choice(shapes)), motion, ground)


def caption(scene: Scene) -> str:
    """The caption of `scene`, as a caption file would have it: `a zorp moves right on black`."""
    is_concept = (scene.colour, scene.shape) == (CONCEPT_COLOUR, CONCEPT_SHAPE)
    what = CONCEPT if is_concept else f"{scene.colour} {scene.shape}"
    way = "stays" if scene.motion == "stays" else f"moves {scene.motion}"
    return f"a {what} {way} on {scene.ground}"
