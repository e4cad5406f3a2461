"""The page in a real browser, over the real API and a real Valkey."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsers import OpenWeights, Visit, chromium, visit
from playwright.sync_api import Browser, Page, expect

from api_support import Api, serving
from gallery_support import PROMPTS, Scene, drift_of, finish, jobs_of, paint_run, tell_done, tell_progress
from rushes.wire.jobs import DRAFT_THRESHOLD
from rushes.wire.results import JobState
from rushes_service.api.routes.runs import MAX_RUNS
from rushes_service.processes.embedded_redis import EmbeddedRedis
from rushes_service.queue import Queue

STEPS = (0, 100, 200)
ENOUGH = PROMPTS[:2]
LARGE_SEED = 2**62 + 1
"""ComfyUI draws such seeds; the nearest double is another number."""


@pytest.fixture
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def painted(api: Api, browser: Browser) -> Iterator[Visit]:
    """A page that shows a run of two prompts and two checkpoints beside the base model; fails if it had errors."""
    paint_run(api.queue, "cut", api.root, STEPS, prompts=ENOUGH)
    found = visit(browser, api.url)
    found.see(".cell.loaded", 6)
    yield found
    assert found.errors == []


def test_the_base_model_is_column_zero_and_the_checkpoints_follow(painted: Visit) -> None:
    heads = painted.page.locator(".head strong").all_text_contents()

    assert heads == ["base model", "step 100", "step 200"]
    assert painted.page.locator("#left .cell").count() == len(ENOUGH), "the base model stays when one scrolls"
    assert painted.page.locator(".prompt p").all_text_contents() == list(ENOUGH)


def test_a_row_whose_noise_came_from_different_cards_says_so(api: Api, browser: Browser) -> None:
    jobs = list(jobs_of("cut", api.root, STEPS, ENOUGH, (96, 64), 1))
    api.queue.submit(jobs)
    for job in jobs[:-1]:
        other = job.step == 100 and job.prompt_index == 0
        noise = "NVIDIA H200" if other else "NVIDIA GeForce RTX 4090"
        finish(api.queue, job, Scene(job.prompt_index, 96, 64, 1), job.step / 200, noise=noise)
    found = visit(browser, api.url)
    found.see(".cell.loaded", 5)
    first, second = (found.page.locator(".prompt").nth(index).locator(".noise") for index in range(2))

    expect(first).to_have_text("noise from different hardware")
    expect(first).to_have_attribute("title", re.compile("^NVIDIA GeForce RTX 4090, NVIDIA H200: .*--rushes_noise cpu"))
    expect(second).to_have_count(0)

    finish(api.queue, jobs[-1], Scene(1, 96, 64, 1), 1.0, noise="cpu")  # while the page is open
    tell_done(api.queue, jobs[-1])
    expect(second).to_have_attribute("title", re.compile("^NVIDIA GeForce RTX 4090, cpu: "))
    found.page.set_viewport_size({"width": 390, "height": 800})
    expect(first).to_be_visible()
    assert found.errors == []


def test_rows_show_how_far_they_drift_and_a_control_its_limit(api: Api, browser: Browser) -> None:
    jobs = list(jobs_of("cut", api.root, STEPS, ENOUGH, (96, 64), 1))
    jobs = [
        job.model_copy(update={"prompt": job.prompt.model_copy(update={"drift_limit": 0.1})})
        if job.prompt_index
        else job
        for job in jobs
    ]
    api.queue.submit(jobs)
    for job in jobs:
        finish(api.queue, job, Scene(job.prompt_index, 96, 64, 1), job.step / 200, drift=drift_of(job, job.step / 200))
    found = visit(browser, api.url)
    found.see(".cell.loaded", 6)

    expect(found.page.locator(".prompt .drift b")).to_have_text(["0.90", "0.23"])
    expect(found.page.locator(".spark.control.over")).to_have_count(1)
    found.page.locator("#about").click()
    expect(found.page.locator("#info .chart")).to_have_count(2)
    expect(found.page.locator("#info .chart").first.locator("polyline.control")).to_have_count(1)
    assert found.errors == []


def test_clips_of_a_row_show_the_same_frame(painted: Visit) -> None:
    painted.see(".cell video.ready", 6)
    painted.page.keyboard.press("Space")
    apart = """() => {
        const videos = [...document.querySelectorAll('.cell video')];
        const times = videos.map((video) => video.currentTime);
        const still = videos.every((video) => video.paused && !video.seeking);
        return still && Math.max(...times) - Math.min(...times) < 1 / 24;
    }"""

    painted.page.wait_for_function(apart)
    painted.page.keyboard.press(".")
    painted.page.wait_for_function(apart)


def test_a_run_fills_its_cells_as_samples_finish(api: Api, browser: Browser) -> None:
    page = visit(browser, api.url)
    expect(page.page.locator("#notice")).to_contain_text("No samples yet")
    jobs = list(jobs_of("live", api.root, STEPS, ENOUGH, (96, 64), 5))
    api.queue.submit(jobs)
    page.see('.cell[data-state="queued"]', 6)
    tell_progress(api.queue, jobs[0], 7)
    expect(page.page.locator('.cell[data-state="running"]')).to_contain_text("denoising 7/20")

    for job in jobs:
        finish(api.queue, job, Scene(job.prompt_index, 96, 64, 5), job.step / 200)
        tell_done(api.queue, job)

    page.see(".cell.loaded", 6)
    page.see(".cell video.ready", 6)
    assert page.errors == []


def test_a_run_that_begins_before_the_page_hears_of_events_is_shown(api: Api, browser: Browser) -> None:
    streams: list[OpenWeights] = []

    def hold(page: Page) -> None:
        streams.append(OpenWeights(page, "**/v1/events*"))

    page = visit(browser, api.url, hold)
    expect(page.page.locator("#notice")).to_contain_text("No samples yet")
    streams[0].wait()
    api.queue.submit(list(jobs_of("live", api.root, STEPS, ENOUGH, (96, 64), 5)))
    streams[0].let_go()

    page.see('.cell[data-state="queued"]', 6)


def test_an_answer_that_comes_late_does_not_undo_what_happened_meanwhile(api: Api, browser: Browser) -> None:
    jobs = list(jobs_of("cut", api.root, STEPS, ENOUGH, (96, 64), 5))
    api.queue.submit(jobs[:4])
    page = visit(browser, api.url)
    page.see('.cell[data-state="queued"]', 4)
    grid = OpenWeights(page.page, "**/v1/runs/cut/grid", answered=True)
    api.queue.submit(jobs[4:])  # a checkpoint that the page does not know: it reads the grid again
    grid.wait()
    finish(api.queue, jobs[0], Scene(0, 96, 64, 5), 0)
    tell_done(api.queue, jobs[0])
    page.see(".cell.loaded", 1)
    grid.let_go()
    page.see(".head", 3)

    assert page.cells(".loaded") == 1
    early = {"type": "started", "id": jobs[0].id, "run": "cut", "data": {}, "at": "1-0"}
    page.page.evaluate("async (event) => (await import('./web/model.js')).apply(event)", early)
    assert page.says("document.querySelector('.cell.loaded').dataset.state") == "done"


def test_what_happened_while_the_server_was_away_is_shown_when_it_is_back(
    redis_server: EmbeddedRedis, tmp_path: Path, browser: Browser
) -> None:
    with serving(redis_server.url, tmp_path) as first:
        first.queue.redis.flushdb()
        jobs = paint_run(first.queue, "cut", tmp_path, STEPS, prompts=ENOUGH, stop=2)
        port = int(first.url.rsplit(":", 1)[1])
        page = visit(browser, first.url)
        page.see(".cell.loaded", 2)
        page.see('#link[data-state="live"]')
    page.see('#link[data-state="away"]')
    with serving(redis_server.url, tmp_path, port=port) as second:
        job = jobs[2]
        finish(second.queue, job, Scene(0, 96, 64, 5), 0.5)
        tell_done(second.queue, job)
        page.see('#link[data-state="live"]')
        page.see(".cell.loaded", 3)


def test_a_prompt_is_scrubbed_over_training_and_its_receipt_is_beside_it(painted: Visit) -> None:
    painted.page.locator('.cell[data-row="0"][data-column="2"]').click()
    viewer = painted.page.locator("#viewer")
    expect(viewer.locator("h2")).to_contain_text("step 200")
    expect(viewer.locator("aside")).to_contain_text("UniPC (flow)")
    expect(viewer.locator("aside")).to_contain_text("learning rate")

    viewer.locator('input[type="range"]').fill("1")
    expect(viewer.locator("h2")).to_contain_text("step 100")
    painted.page.keyboard.press("ArrowLeft")
    expect(viewer.locator("h2")).to_contain_text("base model")
    painted.page.keyboard.press("ArrowDown")
    expect(viewer.locator("aside .text")).to_have_text(ENOUGH[1])
    painted.page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()


def test_two_samples_are_compared_by_wipe_and_by_difference(painted: Visit) -> None:
    painted.page.locator('.cell[data-row="0"][data-column="2"]').click()
    painted.page.locator("#viewer").get_by_role("button", name="Compare").click()
    compare = painted.page.locator("#compare")
    expect(compare.locator("figcaption")).to_have_text(["A · base model · no LoRA", "B · step 200"])

    handle = compare.locator(".handle")
    handle.focus()
    before = int(handle.get_attribute("aria-valuenow") or 0)
    painted.page.keyboard.press("ArrowRight")
    assert int(handle.get_attribute("aria-valuenow") or 0) > before
    painted.page.wait_for_function("() => parseFloat(document.querySelector('#compare output').value.slice(2)) > 1")
    for mode in ("Difference", "Side by side", "Blink", "Wipe"):
        compare.get_by_role("button", name=mode).click()
        expect(compare.get_by_role("button", name=mode)).to_have_attribute("aria-pressed", "true")
    address = painted.page.url

    painted.page.goto("about:blank")
    painted.page.goto(address)
    expect(painted.page.locator("#compare figcaption").first).to_be_visible()


def test_any_two_samples_are_marked_with_the_keyboard(painted: Visit) -> None:
    page = painted.page
    page.locator("#sheet").press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("c")
    expect(page.locator(".cell .letter")).to_have_text("A")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("c")

    expect(page.locator("#compare figcaption")).to_have_text(["A · step 100", "B · step 200"])


def test_a_sample_is_asked_for_again_with_another_seed(api: Api, painted: Visit) -> None:
    painted.page.locator('.cell[data-row="0"][data-column="1"]').click()
    painted.page.locator("#viewer").get_by_role("button", name="Re-sample").click()
    form = painted.page.locator("#ask")
    form.locator('[name="seed"]').fill("7")
    form.locator('[name="strength"]').fill("0.8")
    form.get_by_role("button", name="Sample", exact=True).click()
    expect(painted.page.locator("#toast")).to_contain_text("Queued")

    (queued,) = api.queue.list(state=JobState.QUEUED)
    assert queued.job is not None
    assert (queued.job.prompt.seed, queued.job.strength, queued.job.step) == (7, 0.8, 100)
    assert queued.job.prompt.prompt == ENOUGH[0]
    assert queued.job.priority == "interactive"
    painted.page.keyboard.press("Escape")
    painted.see('.cell[data-state="queued"]')


def test_a_draft_is_asked_for_and_shown_as_one_beside_the_exact_sample(api: Api, painted: Visit) -> None:
    page, form = painted.page, painted.page.locator("#ask")
    page.locator('.cell[data-row="0"][data-column="1"]').click()
    page.keyboard.press("r")
    expect(form.locator('[name="draft"]')).not_to_be_checked()
    form.locator('[name="draft"]').check()
    form.get_by_role("button", name="Sample", exact=True).click()
    expect(page.locator("#toast")).to_contain_text("Queued")
    (queued,) = api.queue.list(state=JobState.QUEUED)
    assert queued.job is not None
    assert queued.job.draft == DRAFT_THRESHOLD
    finish(api.queue, queued.job, Scene(0, 96, 64, 1), 0.5)
    tell_done(api.queue, queued.job)

    page.keyboard.press("Escape")
    draft = page.locator('.cell[data-row="1"][data-column="1"]')
    expect(draft.locator(".draft")).to_have_attribute("title", re.compile("^draft, threshold 0.08: approximate"))
    expect(page.locator(".marks .draft")).to_have_count(1)
    expect(page.locator(".prompt small").nth(1)).to_contain_text("seed 42 · draft")
    draft.click()
    expect(page.locator("#viewer h2 small")).to_contain_text("draft")
    expect(page.locator("#viewer dl").first).to_contain_text("draftthreshold 0.08: approximate, not to judge a LoRA by")
    page.keyboard.press("r")
    expect(form.locator('[name="draft"]')).to_be_checked()
    form.locator('[name="draft"]').uncheck()
    form.get_by_role("button", name="Sample", exact=True).click()
    expect(page.locator("#toast")).to_contain_text("Queued")
    (exact,) = api.queue.list(state=JobState.QUEUED)
    assert exact.job is not None
    assert exact.job.draft is None


def test_what_the_server_refuses_is_said_in_the_form(painted: Visit, api: Api) -> None:
    for path in api.root.glob("*.safetensors"):
        path.unlink()
    painted.page.locator('.cell[data-row="0"][data-column="1"]').click()
    painted.page.keyboard.press("r")
    form = painted.page.locator("#ask")
    form.get_by_role("button", name="Sample", exact=True).click()

    expect(form.locator(".problem")).to_contain_text("is gone, so it cannot be sampled again")
    painted.errors.clear()  # the browser's own line about the 422, and the LoRA that has no numbers any more


def test_all_checkpoints_are_sampled_with_a_new_prompt(api: Api, painted: Visit) -> None:
    painted.page.locator('.cell[data-row="0"][data-column="1"]').click()
    painted.page.get_by_role("button", name="Sample all checkpoints").click()
    form = painted.page.locator("#ask")
    form.locator('[name="prompt"]').fill("a red paper boat")
    form.get_by_role("button", name="Sample", exact=True).click()
    expect(painted.page.locator("#toast")).to_contain_text("3 queued, 0 there already")
    painted.page.keyboard.press("Escape")

    painted.see(".prompt", 3)
    painted.see('.cell[data-state="queued"]', 3)
    assert len(api.queue.list(state=JobState.QUEUED)) == 3


def test_a_seed_larger_than_javascripts_numbers_stays_what_it_is(api: Api, browser: Browser) -> None:
    (made,) = jobs_of("cut", api.root, (100,), ENOUGH[:1], (96, 64), 1)
    job = made.model_copy(update={"prompt": made.prompt.model_copy(update={"seed": LARGE_SEED})})
    api.queue.submit([job])
    finish(api.queue, job, Scene(0, 96, 64, 1), 1.0)
    page = visit(browser, api.url)
    page.see(".cell.loaded")
    page.page.locator('.cell[data-row="0"]').first.click()
    expect(page.page.locator("#viewer")).to_contain_text(str(LARGE_SEED))

    page.page.get_by_role("button", name="Sample all checkpoints").click()
    form = page.page.locator("#ask")
    form.locator('[name="prompt"]').fill("a red paper boat")
    form.locator('[name="seeds"]').fill(f"{LARGE_SEED}, {LARGE_SEED + 2}")
    form.get_by_role("button", name="Sample", exact=True).click()
    expect(page.page.locator("#toast")).to_contain_text("queued")

    seeds = {record.job.prompt.seed for record in api.queue.list(state=JobState.QUEUED) if record.job}
    assert seeds == {LARGE_SEED, LARGE_SEED + 2}
    assert page.errors == []


def test_a_queued_sample_is_cancelled_from_the_queue(api: Api, browser: Browser) -> None:
    paint_run(api.queue, "cut", api.root, STEPS, prompts=ENOUGH, stop=5)
    page = visit(browser, api.url)
    expect(page.page.locator("#queue-count")).to_have_text("1 queued · no worker")
    page.page.locator("#queue-open").click()
    expect(page.page.locator("#queue")).to_contain_text("No worker is alive")
    page.page.locator("#queue").get_by_role("button", name="Cancel").click()

    page.see('.cell[data-state="cancelled"]')
    expect(page.page.locator("#queue-count")).to_have_text("no worker")
    Queue(api.settings.redis_url, worker="box-cpu", lease_s=30).announce({"device": "cpu", "state": "idle"})
    page.page.reload()
    expect(page.page.locator("#queue-count")).to_have_text("idle")


def test_search_filters_and_favourites_are_in_the_address_and_kept(painted: Visit) -> None:
    page = painted.page
    page.keyboard.press("/")
    page.keyboard.type("desert")
    expect(page.locator(".prompt")).to_have_count(1)
    page.reload()
    expect(page.locator("#search")).to_have_value("desert")
    expect(page.locator(".prompt")).to_have_count(1)

    page.locator('.cell[data-row="0"][data-column="2"]').click()
    page.keyboard.press("f")
    expect(page.get_by_title("Favourite (f)")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    page.locator("#search").fill("")
    page.locator("#show").select_option("favourite")
    expect(page.locator(".head strong")).to_have_text(["base model", "step 200"])
    page.reload()
    painted.see(".cell .star")


def test_a_sample_that_looks_wrong_is_flagged_and_one_that_failed_says_why(api: Api, browser: Browser) -> None:
    jobs = list(jobs_of("cut", api.root, STEPS, ENOUGH, (96, 64), 5))
    api.queue.submit(jobs)
    for job, spoiled in zip(jobs, ["", "", "black", "failed", "", ""], strict=True):
        finish(api.queue, job, Scene(job.prompt_index, 96, 64, 5), 0.5, spoiled=spoiled)
    page = visit(browser, f"{api.url}/#show=flagged")

    expect(page.page.locator(".flag")).to_have_text("black")
    expect(page.page.locator('.cell[data-state="failed"]')).to_contain_text("keys fit nothing")
    assert page.page.locator(".head strong").all_text_contents() == ["base model", "step 100"]


def test_a_link_leads_to_its_run_however_many_there_are_since(api: Api, browser: Browser) -> None:
    (job,) = jobs_of("cut", api.root, (0,), ENOUGH[:1], (96, 64), 1)
    api.queue.submit([job.model_copy(update={"run": f"run {n}", "id": f"{n:032x}"}) for n in range(MAX_RUNS + 1)])

    old = visit(browser, f"{api.url}/#run=run+0")
    old.see('.cell[data-state="queued"]')
    expect(old.page.locator("#run")).to_have_value("run 0")
    gone = visit(browser, f"{api.url}/#run=run+x", reduced_motion="reduce")
    expect(gone.page.locator("#toast")).to_contain_text("No samples of run x are kept")
    assert old.errors == []


def test_a_large_run_draws_only_what_is_seen(api: Api, browser: Browser) -> None:
    steps = [0, *range(10, 2000, 10)]
    prompts = [f"prompt number {number}" for number in range(20)]
    api.queue.submit(list(jobs_of("large", api.root, steps, prompts, (96, 64), 5)))
    page = visit(browser, api.url)
    page.see('.cell[data-state="queued"]', 20)

    assert page.says("document.getElementById('sheet').getAttribute('aria-colcount')") == "200"
    for left in (0, 9000, 20000, 40000):
        page.says(f"document.getElementById('sheet').scrollTo({left}, {left // 20})")
        page.page.wait_for_function("() => document.querySelectorAll('.cell').length >= 20")
        assert page.cells() < 200
    page.page.locator("#sheet").press("ArrowDown")
    page.page.keyboard.press("ArrowRight")
    expect(page.page.locator(".cell:focus")).to_have_attribute("data-column", "1")
    assert page.errors == []


PLACEHOLDER_FITS = """(() => {
    const search = document.querySelector("#search");
    const style = getComputedStyle(search);
    const pen = document.createElement("canvas").getContext("2d");
    pen.font = style.font;
    const room = search.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    return pen.measureText(search.placeholder).width <= room;
})()"""


def test_on_a_phone_prompts_stand_above_their_rows(api: Api, browser: Browser) -> None:
    paint_run(api.queue, "cut", api.root, STEPS, prompts=ENOUGH)
    phone = visit(browser, api.url, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    phone.see(".cell.loaded", 3)

    assert phone.says("document.documentElement.scrollWidth") <= 390
    prompt = phone.page.locator(".prompt").first.bounding_box()
    cell = phone.page.locator('.cell[data-row="0"]').first.bounding_box()
    assert prompt and cell
    assert prompt["y"] + prompt["height"] <= cell["y"] + 1
    assert phone.says(PLACEHOLDER_FITS)
    phone.page.locator('.cell[data-row="0"]').last.tap()
    expect(phone.page.locator("#viewer h2")).to_be_visible()
    assert phone.says("(title => title.scrollWidth <= title.clientWidth)(document.querySelector('#viewer h2'))")
    assert phone.errors == []


def test_a_button_reached_by_tab_is_pressed_by_its_own_keys(painted: Visit) -> None:
    painted.page.locator(".cell").first.click()
    painted.page.keyboard.press("Escape")
    painted.page.locator("#run").focus()
    painted.page.keyboard.press("Tab")
    painted.page.keyboard.press("Enter")
    expect(painted.page.locator("#info")).to_be_visible()
    expect(painted.page.locator("#viewer")).not_to_be_visible()
    painted.page.keyboard.press("Escape")

    zoom = painted.page.locator("#zoom")
    before = zoom.input_value()
    zoom.focus()
    painted.page.keyboard.press("ArrowRight")
    assert zoom.input_value() != before, "a slider is moved by the arrows"


def test_what_a_prompt_says_is_never_markup(api: Api, browser: Browser) -> None:
    evil = "<img src=x onerror=\"document.title='caught'\"><script>document.title='caught'</script>"
    paint_run(api.queue, "<b>run</b>", api.root, (0, 100), prompts=[evil])
    page = visit(browser, api.url)
    page.see(".cell.loaded", 2)

    expect(page.page.locator(".prompt p")).to_have_text(evil)
    page.page.locator(".cell").first.click()
    expect(page.page.locator("#viewer aside .text")).to_have_text(evil)
    assert page.page.title() == "<b>run</b> · Rushes"
    assert page.errors == []


def test_a_run_is_renamed_and_put_away(api: Api, painted: Visit) -> None:
    painted.page.locator("#about").click()
    form = painted.page.locator("#info")
    form.locator('[name="title"]').fill("Paper cuts, rank 16")
    form.get_by_label("Archived").check()
    form.get_by_role("button", name="Save").click()

    expect(painted.page.locator("#run optgroup option")).to_have_text("Paper cuts, rank 16")
    assert api.http.get("/v1/runs/cut").json()["archived"] is True
