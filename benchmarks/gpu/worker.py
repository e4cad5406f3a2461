"""A worker's ways: first use of CUDA, a cancel, a second worker, a decode beside the next sample, noise."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import torch

from engine_support import Recorder
from kit import CUDA, DEVICE, Kit, Row, apart, timed
from rushes.errors import SampleCancelled
from rushes.wire.jobs import VaeOptions
from samples import base_of, make_engine, make_job, make_lora, sample

WAN = "wan2.1-t2v"
HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def machine(kit: Kit) -> Row:
    """What ran this."""
    import diffusers
    import transformers

    name = torch.cuda.get_device_name() if CUDA else "cpu"
    memory = torch.cuda.get_device_properties(0).total_memory >> 20 if CUDA else None
    return {
        "device": name,
        "memory_mib": memory,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version() if CUDA else None,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "processors": os.cpu_count(),
    }


def noise(kit: Kit) -> Row:
    """Digests of noise drawn on the device in one call: beyond some 10^5 numbers it depends on the kind of GPU."""
    drawn = (
        torch.randn(16, 21, 60, 104, generator=torch.Generator(DEVICE).manual_seed(3), device=DEVICE).cpu().flatten()
    )
    counts = (16_384, 99_840, 262_144, 2_096_640)
    return {"sha256": {count: hashlib.sha256(drawn[:count].numpy().tobytes()).hexdigest()[:12] for count in counts}}


def first_use(kit: Kit) -> Row:
    """A sample in a process that has not used CUDA before."""
    done = child(kit, "1").communicate(timeout=240)
    return {"ok": bool(done[0].strip()), "error": done[1].strip()[-300:] if not done[0].strip() else None}


def two_workers(kit: Kit) -> Row:
    """Two processes on one card make the same samples at the same time."""
    started = [child(kit, "6") for _ in range(2)]
    found = [json.loads(process.communicate(timeout=240)[0].strip().split("\n")[-1]) for process in started]
    return {"ok": found[0]["digest"] == found[1]["digest"], "seconds": [each["seconds"] for each in found]}


def child(kit: Kit, samples: str) -> subprocess.Popen[str]:
    """A process that makes some samples, see `main`."""
    make_job(kit, WAN)  # the tiny model is there before two of them build it
    command = [sys.executable, str(HERE / "worker.py"), str(kit.home), samples]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def main() -> None:
    """`worker.py HOME SAMPLES`: make samples, with a LoRA and without in turn, and print their digest."""
    kit, count = Kit(Path(sys.argv[1])), int(sys.argv[2])
    digest, engine = hashlib.sha256(), make_engine(kit)

    def work() -> None:
        digest.update(sample(engine, make_job(kit, WAN))[0].numpy().tobytes())
        lora = make_lora(kit, engine, f"{WAN}-{os.getpid()}")
        for seed in range(1, count):
            pixels = sample(engine, make_job(kit, WAN, lora if seed % 2 else None, seed=seed))[0]
            digest.update(pixels.numpy().tobytes())

    seconds, _ = timed(work)
    print(json.dumps({"digest": digest.hexdigest(), "seconds": round(seconds, 2)}))


def cancelling(kit: Kit) -> Row:
    """A cancel at the third step ends the sample there; the next one is right."""
    engine, job = make_engine(kit), make_job(kit, WAN, sample_steps=20)
    plain = sample(engine, job)
    watch = Recorder(stop_at=3, stop=SampleCancelled("enough"))
    try:
        engine.denoise(job, watch)
        stopped = False
    except SampleCancelled:
        stopped = True
    after = sample(engine, job)
    return {"ok": stopped and watch.steps[-1][0] == 3 and torch.equal(after[1], plain[1]), "steps": len(watch.steps)}


def decoding(kit: Kit) -> Row:
    """Wan frame by frame and HunyuanVideo in strips, beside whole decodes."""
    from rushes_service.models.wan.decode import stream_wan

    engine = make_engine(kit)
    sample(engine, make_job(kit, WAN))
    vae, latents = base_of(engine).vae, torch.randn(1, 16, 5, 12, 16, device=DEVICE)
    parts = torch.cat([part.cpu() for part in stream_wan(vae, latents)], 2)
    with torch.no_grad():
        whole = vae.decode(latents, return_dict=False)[0].cpu()
    other = make_engine(kit)
    plain = sample(other, make_job(kit, "hunyuan-video", width=128, height=64))
    strips = sample(other, make_job(kit, "hunyuan-video", width=128, height=64, vae=VaeOptions(chunk_size=32)))
    rows = {"wan": apart(parts, whole), "hunyuan_in_strips": apart(plain[0], strips[0])}
    return {"ok": all(row["max"] < 0.01 for row in rows.values()), **rows}


def beside(kit: Kit) -> Row:
    """Samples decoded in another thread while the next one is denoised: the same pixels."""
    engine = make_engine(kit)
    sample(engine, make_job(kit, WAN))
    lora = make_lora(kit, engine, WAN)
    jobs = [make_job(kit, WAN, lora if seed == 1 else None, seed=seed, frames=17) for seed in range(4)]
    wanted = [sample(engine, job)[0] for job in jobs]
    found: dict[int, torch.Tensor] = {}
    before: threading.Thread | None = None
    for number, job in enumerate(jobs):
        made = engine.denoise(job, Recorder())
        if before is not None:
            before.join()

        def decode(number: int = number, made: object = made) -> None:
            found[number] = torch.cat([part.cpu() for part in made.pixels()], dim=1)  # type: ignore[attr-defined]

        made.hand_over()
        before = threading.Thread(target=decode)
        before.start()
    assert before is not None
    before.join()
    return {"ok": all(torch.equal(found[number], pixels) for number, pixels in enumerate(wanted))}


def marked_tests(kit: Kit) -> Row:
    """The tests that are marked `gpu`, if pytest is here."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "--noconftest",
        "-q",
        "-c",
        os.devnull,
        "--rootdir",
        str(ROOT),
    ]
    command += ["-p", "no:cacheprovider", "-W", "ignore", str(ROOT / "tests" / "unit" / "test_placement.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).strip().split("\n")
    return {
        "ok": done.returncode == 0,
        "pytest": lines[-1][-200:],
        "failures": [each for each in lines if each[:2] == "E "][:3],
    }


if __name__ == "__main__":
    main()
