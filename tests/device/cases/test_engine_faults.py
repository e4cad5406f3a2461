"""The engine's streams, moves, precisions and waits, each case for a fault that a CPU does not show."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import UMT5Config, UMT5EncoderModel

from device_support import PRECISIONS, Watch, Workplace, base_of, places_of, sample, settled, weights_of
from engine_support import Recorder
from rushes.errors import ConfigError, ModelError, NonFiniteLatents, OutOfMemory
from rushes.wire.jobs import SampleJob, VaeOptions
from rushes_service.engine.engine import Engine
from rushes_service.engine.offload import blocks_of
from rushes_service.runtime.devices import allow_tf32, resolve_dtype

WAN = "wan2.1-t2v"
MODEL = PRECISIONS["bfloat16"]

pytestmark = pytest.mark.usefixtures("one_card")


def in_thread(work: Any) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.fixture(scope="module")
def large_encoder(workplace: Workplace, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Wan with a text encoder that is larger than all the rest."""
    there = tmp_path_factory.mktemp("large") / "model"
    shutil.copytree(Path(str(workplace.model(WAN).model)), there)
    shutil.rmtree(there / "text_encoder")
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 16384, "num_layers": 2, "num_heads": 4}
    config = UMT5Config(vocab_size=264, pad_token_id=0, eos_token_id=1, **shape)
    UMT5EncoderModel(config).save_pretrained(there / "text_encoder")
    return str(there)


def test_a_card_that_the_text_encoder_does_not_fit_makes_every_sample(
    workplace: Workplace, gpu: Any, large_encoder: str
) -> None:
    """The transformer leaves for the encoder, in vain, and comes back all the same."""
    model = {**MODEL, "model": large_encoder}
    settled()
    before = gpu.ask("held")
    roomy = workplace.engine(fresh=True)
    wanted = sample(roomy, workplace.job(WAN, model=model))
    # Its prompt is in the cache now.
    need = sample(roomy, workplace.job(WAN, model=model)).facts["peak_memory"]["bytes"] - before
    roomy.unload()
    del roomy
    settled()
    gpu.tell("total", 0, gpu.ask("held") + int(need * 1.15))
    engine = workplace.engine(fresh=True)
    for seed in range(3):
        made = sample(engine, workplace.job(WAN, model=model, prompt=f"ball {seed}"))
        assert made.facts["out_of_memory"]["encode"]["rung"] == "encoders on the CPU"
        assert places_of(engine) == {"cuda:0"}
        assert made.pixels.shape == wanted.pixels.shape


def test_a_card_does_not_take_what_a_cpu_worker_has_encoded(workplace: Workplace) -> None:
    """They share a cache, and round otherwise."""
    family = "wan2.2-ti2v-5b"  # whose picture has latents in float32 everywhere
    job = workplace.job(family, model=MODEL)
    wanted = sample(workplace.engine(fresh=True), job)
    on_the_cpu = workplace.engine("cpu", fresh=True)
    on_the_card = Engine("cuda:0", on_the_cpu.conditioning.directory.parent)
    sample(on_the_cpu, job)
    assert sample(on_the_card, job).same_as(wanted)


def test_a_transformer_that_cannot_come_back_is_loaded_anew(benches: Any, workplace: Workplace, gpu: Any) -> None:
    """A neighbour takes the room while it is on the CPU, for the rest of the sample."""
    job = workplace.job(WAN, benches.adapter(WAN, "LoRA"), model=MODEL, width=160, height=144)
    wanted = sample(workplace.engine(), job)
    engine = workplace.engine()
    sample(engine, job)
    loaded = engine.loaded
    with loaded.transformer_on_cpu():
        gpu.tell("neighbour", 0, gpu.ask("total") - gpu.ask("reserved"))
        with pytest.raises(torch.OutOfMemoryError):
            loaded.settle()
        assert places_of(engine) == {"cpu"}
        with pytest.raises(OutOfMemory):
            sample(engine, job)
        gpu.mend()
    assert sample(engine, job).same_as(wanted)
    assert places_of(engine) == {"cuda:0"}


def test_a_block_that_failed_on_the_card_comes_home(benches: Any, workplace: Workplace) -> None:
    """Else a LoRA would be merged into what lies on the card, and be gone in the second step."""
    engine, reference = workplace.engine(offload=True), workplace.engine()
    base_job, lora_job = (
        workplace.job(WAN, lora, model=MODEL, sample_steps=3) for lora in (None, benches.adapter(WAN, "LoRA"))
    )
    sample(engine, base_job)

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    inside = blocks_of(base_of(engine).transformer)[0].ffn  # the block that the LoRA is for
    hook = inside.register_forward_pre_hook(full)
    with pytest.raises(OutOfMemory):
        sample(engine, base_job)
    hook.remove()
    assert sample(engine, lora_job).same_as(sample(reference, lora_job))
    assert sample(engine, base_job).same_as(sample(reference, base_job))


def test_a_decode_that_was_handed_over_has_a_stream_of_its_own(workplace: Workplace) -> None:
    engine = workplace.engine()
    job = workplace.job(WAN, model=MODEL)
    wanted = sample(engine, job)
    streams: list[Any] = []
    base = base_of(engine)
    for part in (base.vae.decoder, base.transformer):
        part.register_forward_pre_hook(lambda *_: streams.append(torch.cuda.current_stream(engine.device)))
    default = torch.cuda.default_stream(engine.device)
    made = engine.denoise(job, Recorder())
    assert set(streams) == {default}
    streams.clear()
    made.hand_over()
    found: list[torch.Tensor] = []
    in_thread(lambda: found.extend(part.cpu() for part in made.pixels())).join(60)
    assert torch.equal(torch.cat(found, dim=1), wanted.pixels)
    (own,) = set(streams)
    assert own is not default
    assert own.priority < 0
    streams.clear()
    list(engine.denoise(job, Recorder()).frames())
    assert set(streams) == {default}


def test_nothing_is_unloaded_under_a_sample_that_was_handed_over(workplace: Workplace) -> None:
    engine, other = workplace.engine(), workplace.job("flux1-kontext", model=MODEL)
    made = engine.denoise(workplace.job(WAN, model=MODEL), Recorder())
    made.hand_over()
    there = engine.loaded_model
    next_one = in_thread(lambda: engine.denoise(other, Recorder()))
    assert engine.shared.locks.decoding
    frames = list(made.frames())
    assert len(frames) == made.parameters.frame_count
    next_one.join(120)
    assert engine.loaded_model == other.model.fingerprint != there


def test_a_sample_that_is_given_up_after_its_hand_over_holds_nobody_up(workplace: Workplace) -> None:
    engine = workplace.engine()
    made = engine.denoise(workplace.job(WAN, model=MODEL), Recorder())
    made.hand_over()
    del made
    settled()
    assert sample(engine, workplace.job("flux1-kontext", model=MODEL)).facts["model"]


@pytest.mark.parametrize("family", [WAN, "wan2.1-i2v", "flux1-kontext"])
def test_noise_of_the_cpu_makes_the_sample_that_a_cpu_makes(workplace: Workplace, family: str) -> None:
    def job(noise: str) -> SampleJob:
        return workplace.job(family, model={"dtype": "float32"}).model_copy(update={"noise": noise})

    on_cpu = sample(workplace.engine("cpu"), job("device"))
    on_card = sample(workplace.engine(), job("cpu"))
    assert (on_card.latents - on_cpu.latents).abs().mean() < 1e-4
    assert (on_card.facts["noise"], on_cpu.facts["noise"]) == ("cpu", "device")


def test_weights_in_scaled_float8_stay_where_they_are_made(workplace: Workplace, gpu: Any) -> None:
    engine = workplace.engine()
    job = workplace.job(WAN, model=PRECISIONS["float8 with scales"])
    gpu.forget()
    made = engine.denoise(job, Recorder())
    moved = gpu.counts()
    model = sum(value.numel() for value in weights_of(engine).values())
    assert moved.get("bytes to the host", 0) < model / 4
    list(made.frames())


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float8", "float8 with scales"])
def test_a_model_that_is_loaded_is_never_in_host_memory(workplace: Workplace, gpu: Any, precision: str) -> None:
    """Its files go through buffers that together are no larger than its largest tensor."""
    base = workplace.base(WAN, model=PRECISIONS[precision])
    gpu.forget()
    base.load()
    tensors = [*base.transformer.parameters(), *base.vae.parameters()]
    assert {str(tensor.device) for tensor in tensors} == {"cuda:0"}
    largest = max(tensor.numel() * 4 for tensor in tensors)  # files are in float32
    counts = gpu.counts()
    assert 0 < counts["pinned bytes asked for"] <= 2 * largest  # the transformer's, then the VAE's
    assert counts["bytes to the card"] >= sum(tensor.numel() * 4 for tensor in tensors)
    assert counts.get("bytes to the host", 0) == 0


@pytest.mark.parametrize("kind", ["LoRA", "LoHa", "LoKr", "DoRA", "full checkpoint"])
def test_weights_are_changed_without_waiting_for_each(benches: Any, workplace: Workplace, gpu: Any, kind: str) -> None:
    waits: dict[str, int] = {}
    watch = Watch(at={"lora": gpu.forget, "encode": lambda: waits.update(merging=gpu.waits())})
    engine = workplace.engine()
    sample(engine, workplace.job(WAN, model=MODEL))
    sample(engine, workplace.job(WAN, benches.adapter(WAN, kind), model=MODEL), watch)
    assert waits["merging"] <= 3


def test_peaks_are_those_of_the_sample(workplace: Workplace) -> None:
    engine = workplace.engine()
    small = workplace.job(WAN, model=MODEL, frames=1)
    large = workplace.job(WAN, model=MODEL, frames=17, width=128, height=128)
    alone = [sample(engine, job).facts["peak_memory"] for job in (small, large, small)]
    assert alone[2]["bytes"] < alone[1]["bytes"]  # the first one includes the load
    assert "shared" not in alone[2]
    assert sample(engine, small).facts["peak_memory"]["bytes"] == alone[2]["bytes"]
    clip = engine.denoise(large, Recorder())
    beside = sample(engine, small).facts["peak_memory"]
    list(clip.frames())
    assert beside["shared"] is clip.facts()["peak_memory"]["shared"] is True
    assert clip.facts()["peak_memory"]["bytes"] >= alone[1]["bytes"]


def test_tiles_take_less_of_the_card_than_the_whole_frame(workplace: Workplace, gpu: Any) -> None:
    """They are what is tried when the whole frame does not fit, however long the clip."""
    engine = workplace.engine()
    peaks = []
    for vae in (VaeOptions(), VaeOptions(spatial_tile_sample_min_size=64)):
        job = workplace.job(WAN, model=MODEL, vae=vae, frames=33, width=128, height=128, sample_steps=1)
        made = engine.denoise(job, Recorder())
        before = gpu.ask("held")
        gpu.tell("reset peak")
        list(made.frames())
        peaks.append(gpu.ask("peak") - before)
    assert peaks[1] < peaks[0] / 2, peaks


def test_cards_before_ampere_compute_in_float16(gpu: Any) -> None:
    card = torch.device("cuda:0")
    assert resolve_dtype(None, card) == torch.bfloat16
    gpu.capability = (7, 5)
    try:
        assert resolve_dtype(None, card) == torch.float16
        assert resolve_dtype("bfloat16", card) == torch.bfloat16
    finally:
        gpu.capability = (9, 0)


def test_convolutions_in_float32_are_as_in_the_trainers_or_exact(workplace: Workplace) -> None:
    for options, allowed in (({}, True), ({"tf32": False}, False)):
        engine = workplace.engine(**options)
        assert torch.backends.cudnn.allow_tf32 is allowed
        assert not torch.backends.cuda.matmul.allow_tf32
        assert sample(engine, workplace.job("flux1-kontext")).facts["tf32"] is allowed


def test_products_in_float8_are_for_cards_that_have_them(workplace: Workplace, gpu: Any) -> None:
    job = workplace.job(WAN, model={**MODEL, "fp8_fast": True})
    gpu.capability = (8, 0)
    try:
        with pytest.raises(ModelError, match="--fp8_fast: cuda:0 has no products in float8"):
            sample(workplace.engine(), job)
    finally:
        gpu.capability = (9, 0)


def test_wrong_kernels_of_tf32_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for version, allowed in ((91000, True), (91002, False), (91400, False), (91500, True)):
        monkeypatch.setattr(torch.backends.cudnn, "version", lambda version=version: version)
        assert allow_tf32(True) is torch.backends.cudnn.allow_tf32 is allowed
    assert not allow_tf32(False)


def test_attention_is_the_best_that_is_exact_and_fits_the_card(workplace: Workplace, gpu: Any) -> None:
    engine, job = workplace.engine(), workplace.job("flux1-kontext", model=MODEL)
    wanted = sample(engine, job)
    assert wanted.facts["attention"] == "cudnn"
    gpu.capability = (8, 9)
    try:
        found = sample(engine, job)
    finally:
        gpu.capability = (9, 0)
    assert found.facts["attention"] == "native"
    assert found.same_as(wanted)  # on a card that pretends; on a real one they round differently
    with pytest.raises(ConfigError, match="flash3: it is not installed"):
        workplace.engine(attention="flash3")


class FullForBytes(torch.utils._python_dispatch.TorchDispatchMode):
    """The first conversions to uint8 find the card full."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def __torch_dispatch__(self, operation: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation is torch.ops.aten._to_copy.default and (kwargs or {}).get("dtype") == torch.uint8 and self.times:
            self.times -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return operation(*args, **(kwargs or {}))


def test_memory_that_runs_out_after_the_decoder_is_handled_as_in_it(workplace: Workplace) -> None:
    engine, job = workplace.engine(), workplace.job(WAN, model=MODEL, frames=9)
    wanted = list(engine.denoise(job, Recorder()).frames())
    made = engine.denoise(job, Recorder())
    with FullForBytes(2):
        frames = list(made.frames())
    assert all((one == other).all() for one, other in zip(frames, wanted, strict=True))
    assert made.facts()["out_of_memory"]["decode"]["output"] == "exact"


@pytest.mark.parametrize("step", [1, 2, 4])
def test_latents_that_are_not_finite_are_found_though_nothing_waits(workplace: Workplace, step: int) -> None:
    engine, job = workplace.engine(), workplace.job("hunyuan-video", model=MODEL, sample_steps=4)
    wanted = sample(engine, job)
    calls = iter(range(1, 100))

    def spoil(_module: Any, _inputs: Any, output: Any) -> Any:
        return (output[0] * float("nan"), *output[1:]) if next(calls) == step else output

    hook = base_of(engine).transformer.register_forward_hook(spoil)
    heard = Recorder()
    with pytest.raises(NonFiniteLatents, match=f"at step {step} of 4"):
        sample(engine, job, heard)
    assert len(heard.steps) <= step
    hook.remove()
    assert sample(engine, job).same_as(wanted)
