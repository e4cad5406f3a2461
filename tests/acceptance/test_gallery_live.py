"""The page while a real worker samples checkpoints of a tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browsers import chromium, visit
from playwright.sync_api import Browser, expect
from processes import workers

from api_support import serving
from engine_support import write_lora
from rushes.submission.build import Run, build_jobs, checkpoint_at
from rushes.wire.jobs import Prompt
from rushes.wire.models import ModelSpec

START_MS = 120_000
"""A worker imports torch and diffusers first; the machine may be busy."""


@pytest.fixture
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def test_a_live_run_fills_the_grid_and_more_is_asked_of_it_from_the_page(
    redis_url: str, tmp_path: Path, tiny_wan: Path, browser: Browser
) -> None:
    options = {"width": 32, "height": 32, "sample_steps": 4}
    prompts = [Prompt(prompt="a red ball", frame_count=5, seed=1, **options), Prompt(prompt="a blue ball", **options)]
    run = Run("live", ModelSpec(architecture="wan2.1-t2v", model=str(tiny_wan)), str(tmp_path))
    lora = checkpoint_at(write_lora(tmp_path / "live-000010.safetensors"))
    with serving(redis_url, tmp_path) as api, workers(redis_url, tmp_path) as pool:
        page = visit(browser, api.url)
        pool.start()
        api.queue.submit(build_jobs(run, prompts))
        api.queue.submit(build_jobs(run, prompts, checkpoint=lora, step=10))
        page.page.set_default_timeout(START_MS)
        page.see(".cell.loaded", 4)
        page.see(".cell video.ready", 2)

        page.page.locator('.cell[data-row="0"][data-column="1"]').click()
        expect(page.page.locator("#viewer aside")).to_contain_text("modules")
        page.page.keyboard.press("r")
        page.page.locator('#ask [name="strength"]').fill("0.5")
        page.page.locator("#ask").get_by_role("button", name="Sample", exact=True).click()
        page.page.keyboard.press("Escape")
        page.see(".cell.loaded", 5)
        assert page.page.locator(".head", has_text="0.5").count() == 1
        assert page.errors == []
