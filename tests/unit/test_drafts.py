"""Drafts: approximate where the first block changes little, exact where nothing is skipped, gone afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_pipelines
from engine_support import Recorder, make_job, write_lora
from family_support import FAMILIES, tiny_model_spec, tiny_options
from pipeline_support import spec_of
from rushes.checkpoints.safetensors import fingerprint
from rushes.errors import ArchitectureError, ConfigError, SampleCancelled
from rushes.families.table import ARCHITECTURES
from rushes.wire.jobs import Checkpoint, SampleJob
from rushes.wire.models import ModelSpec
from rushes_service.engine.ahead.batch import weights_key
from rushes_service.engine.engine import Engine
from rushes_service.engine.kernels.compiling import CompiledBlock
from rushes_service.engine.kernels.drafting import Draft
from rushes_service.engine.parallel.partners import Together
from rushes_service.engine.placement import transformers_of
from rushes_service.models import tiny
from rushes_service.models.generic import tiny as generic
from rushes_service.models.wan22 import tiny as wan22
from rushes_service.runtime.compat_diffusers_models import with_first_block_cache

STEPS = 4
ALWAYS = 1e9
"""A threshold below which every change lies."""

KINDS = ("wan2.1-t2v", "wan2.2-t2v-a14b", "hunyuan-video-i2v", "framepack", "flux1-kontext", "qwen-image")
"""Families that denoise in ways of their own."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine("cpu", tmp_path / "cache", dtype="float32")


def drafted(job: SampleJob, threshold: float | None) -> SampleJob:
    return job.model_copy(update={"draft": threshold})


def family_job(name: str, models: Path, directory: Path, monkeypatch: pytest.MonkeyPatch) -> SampleJob:
    """A guided sample of two sections, if the family makes some. Wan2.2's transformers have two blocks here, as the
    cache needs.
    """
    spec, build = ARCHITECTURES[name], wan22.transformer
    monkeypatch.setattr(wan22, "transformer", lambda **sizes: build(**{**sizes, "layers": 2}))
    tiny.build_tiny(name, models / f"tiny-{name}")  # here, and not among the models that all tests share
    model = tiny_model_spec(name, models)
    if spec.high_noise_cfg_scale is not None:
        model = model.model_copy(update={"experts": "both"})
    options = {**tiny_options(spec, directory, 5), "sample_steps": STEPS, "cfg_scale": 3.0, "negative_prompt": "blue"}
    if spec.sections:
        options["frame_count"] = 17
    return make_job(Path(), **options).model_copy(update={"model": model})


def block_calls(engine: Engine) -> list[int]:
    """Gets an entry whenever the last block of a transformer computes."""
    assert engine.loaded is not None
    calls: list[int] = []
    for transformer in transformers_of(engine.loaded.base):
        layer = next(iter(with_first_block_cache(transformer)[-1].children()))
        layer.register_forward_pre_hook(lambda *_: calls.append(0))
    return calls


def left_over(engine: Engine) -> list[str]:
    """Modules of the loaded transformers that have something of a draft on them."""
    assert engine.loaded is not None
    return [
        name
        for transformer in transformers_of(engine.loaded.base)
        for name, module in transformer.named_modules()
        if "forward" in vars(module) or (name and hasattr(module, "_diffusers_hook"))
    ]


def pipeline_job(name: str, models: Path, **options: Any) -> SampleJob:
    """A sample by one of the tiny pipelines."""
    build = generic.build if name in generic.PIPELINES else tiny_pipelines.build
    options = {"width": 64, "height": 64, "sample_steps": STEPS, **options}
    return make_job(Path(), **options).model_copy(update={"model": spec_of(build(name, models / name))})


def check_drafts(engine: Engine, job: SampleJob) -> None:
    """That drafts of a job are what they say, and leave nothing behind."""
    exact = engine.denoise(job, Recorder()).latents
    before = left_over(engine)
    whole = engine.denoise(drafted(job, 0.0), Recorder())
    assert torch.equal(whole.latents, exact)
    calls = block_calls(engine)
    rough = engine.denoise(drafted(job, ALWAYS), Recorder())
    none, all_ = whole.facts()["draft"], rough.facts()["draft"]
    assert not torch.equal(rough.latents, exact)
    assert (none["skipped_steps"], none["skipped_calls"]) == (0, 0)
    sections = all_["steps"] // STEPS
    assert all_["skipped_steps"] == all_["steps"] - sections - extra_first_steps(engine)
    assert len(calls) == all_["calls"] - all_["skipped_calls"] < none["calls"]
    assert left_over(engine) == before
    assert torch.equal(engine.denoise(job, Recorder()).latents, exact)


def extra_first_steps(engine: Engine) -> int:
    """Each further expert begins with a whole step, too."""
    assert engine.loaded is not None
    return len(transformers_of(engine.loaded.base)) - 1


@pytest.mark.parametrize("name", KINDS)
def test_a_draft_that_skips_nothing_is_exact_to_the_bit_and_one_that_skips_says_so(
    name, engine, models, tmp_path, monkeypatch
):
    check_drafts(engine, family_job(name, models, tmp_path, monkeypatch))


@pytest.mark.parametrize(("name", "frames"), [("flux", 1), ("ltx", 9), ("cogvideox", 9)])
def test_pipelines_are_drafted(name, frames, engine, models):
    check_drafts(engine, pipeline_job(name, models, frame_count=frames))


def refused(job: SampleJob, engine: Engine, match: str) -> Recorder:
    """Whatever heard of a job that is refused."""
    watch = Recorder()
    with pytest.raises(ArchitectureError, match=match):
        engine.denoise(job, watch)
    return watch


def test_a_family_that_cannot_be_drafted_is_refused_before_anything_is_loaded(engine, models):
    job = drafted(make_job(Path()).model_copy(update={"model": tiny_model_spec("z-image", models)}), 0.1)
    watch = refused(job, engine, "z-image cannot be drafted.*wan2.1-t2v")
    assert (watch.stages, engine.loaded) == ([], None)


def test_devices_that_make_a_sample_together_refuse_a_draft_before_they_begin(engine, wan):
    engine.join(Together())
    with pytest.raises(ConfigError, match="draft is made by one device"):
        engine.denoise(drafted(wan, 0.1), Recorder())
    assert engine.loaded is None


@pytest.mark.parametrize(("name", "kind"), [("sdxl", "UNet2DConditionModel"), ("sd3", "SD3Transformer2DModel")])
def test_a_pipeline_that_cannot_be_drafted_is_refused_before_it_encodes(name, kind, engine, models):
    job = pipeline_job(name, models, frame_count=1)
    watch = refused(drafted(job, 0.1), engine, f"{kind}.*leave the draft out")
    assert watch.stages == ["load"]
    engine.denoise(job, Recorder())


REFUSED = ("hunyuan-video-1.5-t2v", "flux2-klein", "z-image", "krea2", "kandinsky5-t2i")
"""One family for each transformer that is not drafted."""


@pytest.mark.parametrize("name", REFUSED)
def test_diffusers_has_no_first_block_cache_for_what_is_refused(name, engine, models, tmp_path):
    """Where this fails, diffusers has learnt it: the family can be drafted, see `ArchitectureSpec.drafts`."""
    spec = ARCHITECTURES[name]
    job = make_job(Path(), **tiny_options(spec, tmp_path, 1)).model_copy(
        update={"model": tiny_model_spec(name, models)}
    )
    exact, before = engine.denoise(job, Recorder()).latents, left_over(engine)
    assert engine.loaded is not None
    draft = Draft(ALWAYS, 2)
    with pytest.raises((AttributeError, TypeError, ValueError)), draft.active(transformers_of(engine.loaded.base)):
        engine.denoise(job, Recorder())
    assert left_over(engine) == before
    assert torch.equal(engine.denoise(job, Recorder()).latents, exact)


def test_every_family_is_drafted_or_refused_for_its_transformer():
    kinds = {name for name in FAMILIES if not ARCHITECTURES[name].drafts}
    assert kinds == {"hunyuan-video-1.5-i2v", "flux2-dev", "kandinsky5-t2v", "kandinsky5-i2v", *REFUSED}


@pytest.fixture
def wan(tmp_path: Path, tiny_wan: Path) -> SampleJob:
    options = {"frame_count": 1, "sample_steps": STEPS, "cfg_scale": 3.0}
    model = ModelSpec(architecture="wan2.1-t2v", model=str(tiny_wan), dtype="float32")
    return make_job(tiny_wan, **options).model_copy(update={"model": model})


def test_a_draft_that_is_cancelled_leaves_nothing_behind(engine, wan):
    exact = engine.denoise(wan, Recorder()).latents
    before = left_over(engine)
    with pytest.raises(SampleCancelled):
        engine.denoise(drafted(wan, ALWAYS), Recorder(stop_at=2, stop=SampleCancelled("enough")))
    assert left_over(engine) == before
    assert torch.equal(engine.denoise(wan, Recorder()).latents, exact)


def test_one_draft_knows_nothing_of_the_one_before(engine, wan):
    first = engine.denoise(drafted(wan, ALWAYS), Recorder()).latents
    other = wan.model_copy(update={"prompt": wan.prompt.model_copy(update={"seed": 8})})
    engine.denoise(drafted(other, ALWAYS), Recorder())
    assert torch.equal(engine.denoise(drafted(wan, ALWAYS), Recorder()).latents, first)


def test_the_prompt_and_the_negative_one_have_caches_of_their_own(engine, wan, tmp_path):
    """In one batch neither can take the other's."""
    together = Engine("cpu", tmp_path / "cache", dtype="float32", batching="on")
    made = [each.denoise(drafted(wan, ALWAYS), Recorder()) for each in (engine, together)]
    assert [each.facts()["draft"]["calls"] for each in made] == [2 * STEPS, STEPS]
    assert made[1].facts()["guidance"] == "in one batch"
    torch.testing.assert_close(made[0].latents, made[1].latents, rtol=0, atol=1e-4)


def test_drafts_are_denoised_alone_and_exact_samples_take_none_of_them(wan, tmp_path):
    engine = Engine("cpu", tmp_path / "cache", dtype="float32", batching="on")
    others = [wan.model_copy(update={"id": f"{number:032}"}) for number in range(2)]
    waiting = [others[0], drafted(others[1], ALWAYS)]
    exact = engine.denoise(wan, Recorder(), lambda: waiting)
    rough = engine.denoise(drafted(wan, ALWAYS), Recorder(), lambda: waiting)
    assert exact.facts()["batch"]["samples"] == 2
    assert "batch" not in rough.facts()
    assert weights_key(wan) != weights_key(waiting[1])


def test_a_draft_runs_without_graphs(wan, tmp_path):
    engine = Engine("cpu", tmp_path / "cache", dtype="float32", compiled=True)
    denoised = engine.denoise(drafted(wan, 0.0), Recorder())
    assert engine.compiler is not None and engine.compiler.orders == 0
    assert denoised.facts()["compiled"]["by_graph"] == 0
    assert torch.equal(denoised.latents, Engine("cpu", tmp_path / "cache").denoise(wan, Recorder()).latents)
    assert all(isinstance(block.forward, CompiledBlock) for block in engine.loaded.base.transformer.blocks)


@pytest.mark.parametrize("how", ["offloaded", "in float8"])
def test_layers_with_hooks_are_drafted(how, wan, tmp_path):
    engine = Engine("cpu", tmp_path / "cache", offload=how == "offloaded")
    lora = write_lora(tmp_path / "lora.safetensors")
    checkpoint = Checkpoint(path=str(lora), fingerprint=fingerprint(lora))
    model = wan.model.model_copy(update={"fp8_base": how == "in float8"})
    check_drafts(engine, wan.model_copy(update={"model": model, "checkpoint": checkpoint}))


def test_the_receipt_and_the_warnings_tell_of_a_draft(engine, wan):
    denoised = engine.denoise(drafted(wan, ALWAYS), Recorder())
    list(denoised.frames())
    facts = denoised.facts()
    assert facts["draft"] == {
        "technique": "FirstBlockCache",
        "threshold": ALWAYS,
        "steps": STEPS,
        "skipped_steps": STEPS - 1,
        "calls": 2 * STEPS,
        "skipped_calls": 2 * (STEPS - 1),
    }
    told = f"draft, threshold 1e+09: approximate, {STEPS - 1} of {STEPS} steps were skipped; not to judge a LoRA by"
    assert told in facts["warnings"]
    assert "draft" not in engine.denoise(wan, Recorder()).facts()
