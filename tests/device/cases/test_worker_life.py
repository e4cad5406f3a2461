"""A worker's life: its first call, its card, many samples, a cancel, a decode beside the next sample, a full host."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from device_support import DENSE, PRECISIONS, Watch, Workplace, sample, settled
from engine_support import Recorder
from family_support import FAMILIES
from rushes.errors import SampleCancelled
from rushes_service.engine.kept.models import KeptModels
from rushes_service.runtime import pinned
from rushes_service.runtime.host_memory import HostMemory

WAN = "wan2.1-t2v"
KONTEXT = "flux1-kontext"
SCHEDULER_BYTES = 512
"""On the card, of a model that is kept: the least that an allocator gives."""

MODEL = PRECISIONS["bfloat16"]


@pytest.mark.usefixtures("one_card")
def test_an_engine_may_be_the_first_to_use_cuda(workplace: Workplace, gpu: Any) -> None:
    gpu.initialised = False
    sample(workplace.engine(), workplace.job(WAN, model=MODEL))


@pytest.mark.parametrize(
    ("family", "offload"), [*((family, False) for family in FAMILIES), *((family, True) for family in DENSE)]
)
def test_a_worker_of_the_second_card_leaves_the_first_alone(
    benches: Any, workplace: Workplace, gpu: Any, family: str, offload: bool
) -> None:
    lora = benches.adapter(family, "LoRA")
    job = workplace.job(family, lora, model=MODEL)
    wanted = sample(benches.get(family, "bfloat16").engine, job)
    torch.cuda.set_device(0)
    gpu.forget()
    streams = used_streams()
    made = in_thread(lambda: sample(workplace.engine("cuda:1", offload=offload), job))
    assert made.same_as(wanted)
    assert {card: gpu.ask("touches", card) for card in range(gpu.cards) if gpu.ask("touches", card)}.keys() == {1}
    assert used_streams() - streams <= {1}


def test_every_thread_of_a_worker_locks_memory_for_its_own_card(
    workplace: Workplace, gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that read a model, too. Else CUDA would take some hundred MiB of the first card for each of them."""
    monkeypatch.setattr(pinned, "LARGE", 1)
    gpu.locked_for.clear()
    in_thread(lambda: sample(workplace.engine("cuda:1"), workplace.job(WAN, model=MODEL)))
    assert set(gpu.locked_for) == {1}


@pytest.mark.parametrize("family", ["wan2.1-i2v", "flux1-kontext", "framepack"])
def test_a_second_card_decodes_what_the_first_has_denoised(workplace: Workplace, gpu: Any, family: str) -> None:
    job = workplace.job(family, model=MODEL)
    wanted = sample(workplace.engine(), job)
    settled()
    before = gpu.ask("held", 1)
    engine = workplace.engine(decode_device="cuda:1")
    denoised = engine.denoise(job, Recorder())
    base = engine.loaded.base
    assert {str(weight.device) for weight in base.decoder.parameters()} == {"cuda:1"}
    assert {str(weight.device) for part in (base.transformer, base.vae) for weight in part.parameters()} == {"cuda:0"}
    denoised.hand_over()
    found = in_thread(lambda: torch.cat([part.cpu() for part in denoised.pixels()], dim=1))
    assert torch.equal(found, wanted.pixels)
    assert denoised.facts()["decode_device"].startswith("cuda:1 ")
    assert torch.cuda.current_device() == 0
    engine.unload()
    base.decode_on(torch.device("cpu"))
    settled()
    assert gpu.ask("held", 1) == before


def used_streams() -> set[int]:
    """Cards of which a stream has been made or asked for, since the last call."""
    import pretended_gpu

    found = set(pretended_gpu.stream_uses)
    pretended_gpu.stream_uses.clear()
    return found


def in_thread(work: Callable[[], Any]) -> Any:
    """The result of `work` in a thread of its own, which begins on the first card, as with CUDA."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.usefixtures("one_card")
def test_a_device_without_an_index_costs_no_more(workplace: Workplace, gpu: Any) -> None:
    counts = []
    for device in ("cuda:0", "cuda"):
        engine = workplace.engine(device)
        sample(engine, workplace.job(WAN, model=MODEL))
        gpu.forget()
        sample(engine, workplace.job(WAN, model=MODEL))
        counts.append(gpu.counts())
    assert counts[0] == counts[1]
    assert "empty_cache" not in counts[1]


@pytest.mark.usefixtures("one_card")
@pytest.mark.parametrize("family", DENSE)
def test_memory_is_flat_over_twenty_samples(benches: Any, workplace: Workplace, gpu: Any, family: str) -> None:
    loras = [None, benches.adapter(family, "LoRA"), benches.adapter(family, "LoKr")]
    settled()
    before = gpu.ask("held")
    engine, held = workplace.engine(), []
    for number in range(20):
        options = {"model": MODEL, "seed": number, "sample_steps": 2}
        stop = Recorder(stop_at=1, stop=SampleCancelled("enough")) if number % 7 == 5 else None
        try:
            sample(engine, workplace.job(family, loras[number % 3], **options), stop)
        except SampleCancelled:
            assert stop is not None
        del stop  # and with it the frames of what it raised
        settled()
        held.append((gpu.ask("held"), gpu.ask("pinned")))
    assert held[6::3] == [held[6]] * len(held[6::3])
    engine.unload()
    settled()
    assert gpu.ask("held") <= before


@pytest.mark.usefixtures("one_card")
@pytest.mark.parametrize("family", DENSE)
def test_a_decode_beside_the_next_sample_makes_the_same(benches: Any, workplace: Workplace, family: str) -> None:
    bench = benches.get(family, "bfloat16")
    jobs = [
        workplace.job(family, benches.adapter(family, "LoRA") if seed == 1 else None, model=MODEL, seed=seed)
        for seed in range(3)
    ]
    wanted = [sample(bench.engine, job).pixels for job in jobs]
    found: dict[int, torch.Tensor] = {}
    before: threading.Thread | None = None
    for number, job in enumerate(jobs):
        made = bench.engine.denoise(job, Recorder())
        if before is not None:
            before.join()

        def decode(number: int = number, made: Any = made) -> None:
            found[number] = torch.cat([part.cpu() for part in made.pixels()], dim=1)

        made.hand_over()
        before = threading.Thread(target=decode)
        before.start()
    before.join()
    assert all(torch.equal(found[number], pixels) for number, pixels in enumerate(wanted))


@pytest.mark.usefixtures("one_card")
@pytest.mark.parametrize("offload", [False, True])
def test_a_host_that_pins_no_more_memory_is_slower_and_no_failure(
    benches: Any, workplace: Workplace, gpu: Any, offload: bool
) -> None:
    lora = benches.adapter(WAN, "LoRA")
    job = workplace.job(WAN, lora, model=MODEL)
    wanted = sample(workplace.engine(), job)
    gpu.tell("pinned limit", 0, 1)
    made = sample(workplace.engine(offload=offload), job)
    assert made.same_as(wanted)
    assert made.facts["offloaded"] is offload
    assert "out_of_memory" not in made.facts


@pytest.mark.usefixtures("one_card")
def test_copies_go_to_the_host_when_the_card_is_full_and_change_nothing(
    benches: Any, workplace: Workplace, gpu: Any
) -> None:
    job = workplace.job(WAN, benches.adapter(WAN, "LoRA"), model=MODEL)
    wanted = sample(workplace.engine(), job)
    engine = workplace.engine()
    base = sample(engine, workplace.job(WAN, model=MODEL))

    def fill() -> None:
        torch.cuda.empty_cache()  # what is kept for later counts as unused
        gpu.tell("neighbour", 0, gpu.free(0) - (64 << 10))

    made = sample(engine, job, Watch(at={"lora": fill, "encode": gpu.mend}))
    assert "pinned" in made.facts["lora"]["merge"]
    assert made.same_as(wanted)
    assert sample(engine, workplace.job(WAN, model=MODEL)).same_as(base)


@pytest.mark.usefixtures("one_card")
@pytest.mark.parametrize("family", DENSE)
def test_a_kept_encoder_is_copied_to_the_card_and_leaves_nothing_there(
    workplace: Workplace, gpu: Any, family: str
) -> None:
    keeping, fresh = (workplace.engine(fresh=True, encoder_bytes=size) for size in (1 << 30, 0))
    sample(keeping, workplace.job(family, model=MODEL))
    loads = keeping.shared.encoders.loads
    settled()
    held = gpu.ask("held")
    job = workplace.job(family, model=MODEL, prompt="a blue cube")
    made = sample(keeping, job)
    assert keeping.shared.encoders.loads == loads
    settled()
    assert gpu.ask("held") == held
    stage = {"encode": lambda: gpu.fail(3)}
    ran_out = workplace.job(family, model=MODEL, prompt="a green cone")
    again = sample(keeping, ran_out, Watch(at=stage))
    assert "encode" in again.facts["out_of_memory"]
    gpu.mend()
    assert made.same_as(sample(fresh, job))
    assert again.same_as(sample(fresh, ran_out))


@pytest.mark.usefixtures("one_card")
def test_a_checkpoint_that_was_read_ahead_makes_the_same(benches: Any, workplace: Workplace) -> None:
    first, second = (workplace.job(WAN, benches.adapter(WAN, name), model=MODEL) for name in ("LoRA", "LoKr"))
    engine, plain = workplace.engine(), workplace.engine()
    made = engine.denoise(first, Recorder(), lambda: [second])
    list(made.pixels())
    engine.shared.reader.wait()
    assert engine.loaded.loras.ahead
    wanted = sample(plain, second)
    assert sample(engine, second).same_as(wanted)
    assert not engine.loaded.loras.ahead


@pytest.mark.usefixtures("one_card")
def test_two_models_in_turn_leave_the_card_and_come_back_to_the_same_bits(
    benches: Any, workplace: Workplace, gpu: Any
) -> None:
    jobs = [workplace.job(family, benches.adapter(family, "LoRA"), model=MODEL) for family in (WAN, KONTEXT)]
    jobs.append(workplace.job(WAN, model=MODEL))
    wanted, alone = [], []
    for job in jobs:
        settled()
        before = gpu.ask("held")
        engine = workplace.engine()
        wanted.append(sample(engine, job))
        settled()
        alone.append(gpu.ask("held") - before)
        engine.unload()
    settled()
    empty = gpu.ask("held")
    engine = workplace.engine()
    engine.shared.kept = KeptModels(1 << 30, lambda: HostMemory(100 << 30, 90 << 30))
    held = []
    for turn in (0, 1, 2, 1) * 3:
        made = sample(engine, jobs[turn])
        assert made.same_as(wanted[turn])
        assert made.heard.stages[0] == "load"
        settled()
        assert gpu.ask("held") - empty <= alone[turn] + 2 * SCHEDULER_BYTES
        held.append((gpu.ask("held"), gpu.ask("pinned")))
    assert held[4:8] == held[8:]
    late = engine.denoise(jobs[1], Recorder())
    ran_out = sample(engine, jobs[2], Watch(at={"load": lambda: gpu.fail(3)}))
    assert "load" in ran_out.facts["out_of_memory"]
    assert ran_out.same_as(wanted[2])
    torch.testing.assert_close(torch.cat(list(late.pixels()), dim=1), wanted[1].pixels)
    engine.unload()
    del engine, late
    settled()
    assert gpu.ask("held") <= empty
