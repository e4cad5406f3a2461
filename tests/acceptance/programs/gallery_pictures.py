"""Makes the pictures of the page in docs/images: `PYTHONPATH=tests:tests/acceptance python THIS`.

The clips are drawn, not sampled (see gallery_support.py), so that the page can be shown without a model.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from browsers import Visit, chromium, visit
from PIL import Image
from playwright.sync_api import Browser

from api_support import Api, announce, serving
from gallery_support import PROMPTS, Scene, drift_of, finish, jobs_of
from rushes.wire import keys
from rushes_service.processes.embedded_redis import EmbeddedRedis

IMAGES = Path(__file__).parents[3] / "docs" / "images"

STEPS = (0, 200, 400, 600, 800, 1000, 1200)
SIZE = (480, 272)
FRAMES = 25
SETTLE_MS = 2500
"""Until every clip is there; then until each shows the frame that it was set to."""


def paint(api: Api) -> None:
    """A run whose last checkpoint is being sampled, with one black sample and one that failed."""
    jobs = list(jobs_of("papercut-r16", api.root, STEPS, PROMPTS, SIZE, FRAMES))
    # The last prompt is a control.
    limited = {"drift_limit": 0.4}
    jobs = [
        job.model_copy(update={"prompt": job.prompt.model_copy(update=limited)}) if job.prompt_index == 3 else job
        for job in jobs
    ]
    api.queue.submit(jobs)
    wrong = {(600, 2): "black", (1000, 3): "failed"}
    for job in jobs[:-3]:
        progress = min(1.0, (job.step / 900) ** 0.8)
        scene = Scene(job.prompt_index, *SIZE, FRAMES)
        spoiled = wrong.get((job.step, job.prompt_index), "")
        finish(api.queue, job, scene, progress, spoiled=spoiled, drift=drift_of(job, progress))
    running = jobs[-3]
    progress = {"stage": "denoise", "step": 13, "total": 20}
    api.queue.redis.hset(keys.job(running.id), mapping={"state": "running", **progress})
    announce(api.queue, "progress", running.id, running.run, **progress)
    api.http.put(f"/v1/samples/{jobs[16].id}/favourite")


def cell(api: Api, row: int, column: str) -> str:
    """Id of the sample in a row, at the column whose key begins so."""
    grid = api.http.get("/v1/runs/papercut-r16/grid").json()
    key = grid["rows"][row]["key"]
    return next(cell["id"] for cell in grid["cells"] if cell["row"] == key and cell["column"].startswith(column))


def take(browser: Browser, api: Api, name: str, view: str, width: int, height: int, scheme: str = "dark") -> None:
    """Open a view and keep what it looks like, with few enough colours to stay small."""
    page: Visit = visit(browser, f"{api.url}/#{view}", viewport={"width": width, "height": height}, color_scheme=scheme)
    page.see("img")
    page.page.wait_for_timeout(SETTLE_MS)
    page.page.keyboard.press("Space")  # all clips show the same frame
    page.page.wait_for_timeout(SETTLE_MS)
    keep(page, name)


def keep(page: Visit, name: str) -> None:
    """Write what a page looks like, and close it."""
    target = IMAGES / name
    page.page.screenshot(path=target)
    with Image.open(target) as image:
        image.convert("RGB").quantize(256, kmeans=3, dither=Image.Dither.NONE).save(target, optimize=True)
    page.page.context.close()


def vote(api: Api, voter: str, count: int) -> None:
    """Votes of somebody who prefers later checkpoints, up to step 800."""
    for _ in range(count):
        pair = api.http.get("/v1/ranking/pair", params={"run": "papercut-r16", "voter": voter}).json()
        if pair["left"] is None:
            return
        sides = {
            side: api.http.get(f"/v1/samples/{pair[side]['id']}").json()["job"].get("step", 0)
            for side in ("left", "right")
        }
        worth = {side: step if step <= 800 else 600 for side, step in sides.items()}
        choice = "equal" if abs(worth["left"] - worth["right"]) < 150 else max(worth, key=worth.__getitem__)
        body = {"runs": ["papercut-r16"], "voter": voter, "left": pair["left"]["id"], "right": pair["right"]["id"]}
        api.http.post("/v1/ranking/votes", json={**body, "choice": choice}).raise_for_status()


def take_curves(browser: Browser, api: Api) -> None:
    """The dialog of a run with its curves."""
    page: Visit = visit(browser, api.url, viewport={"width": 900, "height": 1000}, color_scheme="light")
    page.see(".cell.loaded", 4)
    page.page.locator("#about").click()
    page.see("#info .chart", 2)
    page.page.wait_for_timeout(SETTLE_MS)
    keep(page, "drift.png")


def take_ranking(browser: Browser, api: Api, name: str, width: int, height: int, scheme: str, *, table: bool) -> None:
    """The page of blind ranking, with or without its table."""
    address = f"{api.url}/rank#run=papercut-r16"
    page: Visit = visit(browser, address, viewport={"width": width, "height": height}, color_scheme=scheme)
    page.page.locator("#voter").fill("ada")
    page.page.keyboard.press("Enter")
    page.see("#pair [data-sample]", 2)
    if table:
        page.page.keyboard.press("r")
        page.see("#table tbody tr", 3)
    page.page.wait_for_timeout(SETTLE_MS)
    page.page.keyboard.press("Space")
    page.page.wait_for_timeout(SETTLE_MS)
    keep(page, name)


def main() -> None:
    """Paint a run and take the pictures."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        with EmbeddedRedis(root / "valkey", 0) as server, serving(server.url, root) as api, chromium() as browser:
            paint(api)
            take(browser, api, "warm.png", "zoom=168", 1440, 530)  # makes the stills, so that the next has them all
            (IMAGES / "warm.png").unlink()
            take(browser, api, "gallery.png", "zoom=168", 1440, 530)
            take(browser, api, "gallery-light.png", "zoom=168", 1440, 530, "light")
            take(browser, api, "gallery-sample.png", f"sample={cell(api, 0, '800')}", 1440, 860)
            view = f"a={cell(api, 0, 'base')}&b={cell(api, 0, '1000')}"
            take(browser, api, "gallery-compare.png", view, 1280, 800)
            take(browser, api, "gallery-phone.png", "", 390, 780)
            vote(api, "ada", 9)
            vote(api, "bob", 14)
            take_curves(browser, api)
            take_ranking(browser, api, "rank.png", 1280, 800, "dark", table=False)
            take_ranking(browser, api, "rank-light.png", 1280, 900, "light", table=True)
            take_ranking(browser, api, "rank-phone.png", 390, 780, "dark", table=False)


if __name__ == "__main__":
    main()
