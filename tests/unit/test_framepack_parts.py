"""FramePack's parts, each against something that is known to be right."""

from __future__ import annotations

import itertools

import pytest
import torch
from diffusers import HunyuanVideoFramepackTransformer3DModel

import engine_support  # noqa: F401  # one thread, no network
from rushes_service.models.encoders.tiny_llama import POOLED_DIM, TEXT_DIM
from rushes_service.models.framepack.decode import chunks, stream_sections
from rushes_service.models.framepack.sections import ForwardClip, InvertedClip, paddings
from rushes_service.models.framepack.tiny import AXES, IMAGE_DIM
from rushes_service.models.framepack.transformer import FramePackTransformer, Frames, History, Words
from rushes_service.models.framepack.unipc import sample_unipc


@pytest.fixture(scope="module")
def transformer() -> FramePackTransformer:
    torch.manual_seed(0)
    return FramePackTransformer(
        num_attention_heads=2,
        attention_head_dim=sum(AXES),
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        text_embed_dim=TEXT_DIM,
        pooled_projection_dim=POOLED_DIM,
        rope_axes_dim=AXES,
        has_image_proj=True,
        image_proj_dim=IMAGE_DIM,
        has_clean_x_embedder=True,
    ).eval()


def frames(*places: int) -> Frames:
    return Frames(torch.randn(1, 16, len(places), 6, 4), torch.tensor(places))


def words() -> Words:
    return Words(torch.randn(1, 7, TEXT_DIM), torch.randn(1, POOLED_DIM), torch.randn(1, 4, IMAGE_DIM))


TIME, GUIDANCE = torch.tensor([420.0]), torch.tensor([10_000.0])


@torch.no_grad()
def test_the_transformer_is_diffusers_own_where_that_can_run(transformer):
    torch.manual_seed(1)
    noisy, text = frames(3, 4), words()
    history = History(frames(0, 5), frames(6, 7), frames(*range(8, 24)))
    mask = torch.zeros(1, 12)
    mask[:, :7] = 1
    wanted = HunyuanVideoFramepackTransformer3DModel.forward(
        transformer,
        hidden_states=noisy.latents,
        timestep=TIME,
        encoder_hidden_states=torch.cat([text.text, torch.randn(1, 5, TEXT_DIM)], dim=1),
        encoder_attention_mask=mask,
        pooled_projections=text.pooled,
        image_embeds=text.image,
        indices_latents=noisy.places,
        guidance=GUIDANCE,
        latents_clean=history.clean.latents,
        indices_latents_clean=history.clean.places,
        latents_history_2x=history.half.latents,
        indices_latents_history_2x=history.half.places,
        latents_history_4x=history.quarter.latents,
        indices_latents_history_4x=history.quarter.places,
        return_dict=False,
    )[0]
    torch.testing.assert_close(transformer(noisy, history, text, TIME, GUIDANCE), wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_any_part_of_the_coarser_history_may_be_left_out(transformer):
    torch.manual_seed(1)
    noisy, clean, half, quarter, text = frames(3, 4), frames(0, 5), frames(6, 7), frames(*range(8, 24)), words()
    found = [
        transformer(noisy, History(clean, *parts), text, TIME, GUIDANCE)
        for parts in itertools.product((half, None), (quarter, None))
    ]
    assert all(velocity.shape == noisy.latents.shape for velocity in found)
    assert all(not torch.equal(one, other) for one, other in itertools.combinations(found, 2))


@pytest.mark.parametrize(
    ("sections", "gaps"), [(1, [0]), (4, [3, 2, 1, 0]), (5, [3, 2, 2, 1, 0]), (7, [3, 2, 2, 2, 2, 1, 0])]
)
def test_sections_in_the_middle_of_a_long_clip_keep_a_distance_of_two(sections, gaps):
    assert paddings(sections) == gaps


def section(number: int) -> torch.Tensor:
    """Two latent frames that say which they are."""
    return torch.tensor([number + 0.1, number + 0.2]).view(1, 1, 2, 1, 1).expand(1, 16, 2, 1, 1)


def test_an_inverted_clip_is_made_from_its_end_and_read_from_its_start():
    clip = InvertedClip(torch.full((1, 16, 1, 1, 1), 9.0), sections=3, window=2)
    places, history = clip.section(0)
    assert places.tolist() == [5, 6]
    assert history.clean.places.tolist() == [0, 7]
    assert history.half.places.tolist() == [8, 9]
    assert history.quarter.places.tolist() == list(range(10, 26))
    for number in range(3):
        clip.add(section(number))
    assert clip.section(2)[1].clean.latents[0, 0, :, 0, 0].tolist() == pytest.approx([9.0, 2.1])
    assert clip.latents()[0, 0, :, 0, 0].tolist() == pytest.approx([9.0, 2.1, 2.2, 1.1, 1.2, 0.1, 0.2])


def test_a_forward_clip_is_made_and_read_from_its_start():
    clip = ForwardClip(torch.full((1, 16, 1, 1, 1), 9.0), sections=2, window=2)
    clip.add(section(0))
    places, history = clip.section(1)
    assert places.tolist() == [20, 21]
    assert history.clean.places.tolist() == [0, 19]
    assert history.clean.latents[0, 0, :, 0, 0].tolist() == pytest.approx([9.0, 0.2])
    assert history.half.latents[0, 0, :, 0, 0].tolist() == pytest.approx([9.0, 0.1])
    clip.add(section(1))
    assert clip.latents()[0, 0, :, 0, 0].tolist() == pytest.approx([9.0, 0.1, 0.2, 1.1, 1.2])


def decoded(latents: torch.Tensor) -> torch.Tensor:
    """Stands for a decoder whose pixels depend on all of the chunk, as HunyuanVideo's do."""
    pixels = latents[:, :3].repeat_interleave(4, dim=2)[:, :, 3:]
    return pixels + latents.mean()


def backwards(latents: torch.Tensor, window: int) -> torch.Tensor:
    """The whole clip, from its end to its start, each chunk faded into what follows it."""
    overlap = 4 * window - 3
    clip: torch.Tensor | None = None
    for start, stop in reversed(chunks(latents.shape[2], window)):
        pixels = decoded(latents[:, :, start:stop])
        if clip is None:
            clip = pixels
            continue
        weights = torch.linspace(1, 0, overlap).view(1, 1, -1, 1, 1)
        blended = weights * pixels[:, :, -overlap:] + (1 - weights) * clip[:, :, :overlap]
        clip = torch.cat([pixels[:, :, :-overlap], blended, clip[:, :, overlap:]], dim=2)
    assert clip is not None
    return clip


@pytest.mark.parametrize("window", [1, 2, 9])
@pytest.mark.parametrize("sections", [1, 2, 3, 6])
def test_decoding_from_the_start_gives_what_decoding_from_the_end_does(sections, window):
    latents = torch.randn(1, 16, sections * window + 1, 2, 2)
    found = list(stream_sections(decoded, latents, window))
    assert torch.equal(torch.cat(found, dim=2), backwards(latents, window))
    assert sum(part.shape[2] for part in found) == 4 * window * sections + 1


def gaussian_error(steps: int) -> float:
    """How far the last noisy sample is from the exact flow of normally distributed data, whose x0 is known."""
    spread = 0.3
    seen: list[tuple[torch.Tensor, float]] = []

    def predict(latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        seen.append((latents, float(sigma)))
        return latents * (1 - sigma) * spread**2 / ((1 - sigma) ** 2 * spread**2 + sigma**2)

    noise = torch.ones(1, dtype=torch.float64)
    sample_unipc(predict, noise, torch.linspace(1, 0, steps + 1, dtype=torch.float64), lambda done, x0: None)
    # All runs are compared at one noise level, which each of them comes by.
    latents, sigma = next(pair for pair in seen if abs(pair[1] - 0.2) < 1e-9)
    return float((latents - ((1 - sigma) ** 2 * spread**2 + sigma**2) ** 0.5).abs())


def test_unipc_converges_with_its_order():
    coarse, fine = gaussian_error(40), gaussian_error(80)
    assert fine < coarse / 2**2.7


def test_unipc_of_a_single_step_is_the_models_own_prediction():
    noise = torch.randn(1, 16, 2, 2, 2)
    heard: list[int] = []
    found = sample_unipc(lambda x, sigma: x * sigma / 2, noise, torch.tensor([1.0, 0.0]), lambda n, _: heard.append(n))
    assert torch.equal(found, noise / 2)
    assert heard == [1]
