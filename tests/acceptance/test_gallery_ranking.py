"""Blind ranking in a real browser: a whole run by the keyboard alone, a second voter, an emptied Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browsers import Visit, chromium, visit
from playwright.sync_api import Browser, expect

from api_support import Api
from gallery_support import PROMPTS, paint_run
from rushes.cli import main as cli

STEPS = (0, 100, 200, 300, 400, 500)
TIMES = "\N{MULTIPLICATION SIGN}"
PAIRS = 15 * len(PROMPTS)


@pytest.fixture
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def run(api: Api) -> Api:
    """Six columns, four prompts of short clips."""
    paint_run(api.queue, "cut", api.root, STEPS, size=(48, 32), frames=2)
    return api


class Voter:
    """Votes by the keyboard for the sample of the later step."""

    def __init__(self, api: Api, found: Visit, name: str) -> None:
        self.api, self.found, self.page = api, found, found.page
        self.name = name
        self.page.locator("#voter").fill(name)
        self.page.keyboard.press("Enter")

    def votes(self) -> int:
        """Votes that the server has of this voter."""
        return sum(
            vote["voter"] == self.name for vote in self.api.http.get("/v1/ranking/votes", params={"run": "cut"}).json()
        )

    def vote(self, key: str | None = None) -> None:
        """Press a key for the pair that is shown, and wait until it counts."""
        before = self.votes()
        self.page.wait_for_function("() => document.querySelectorAll('#pair [data-sample]').length === 2")
        sides = self.page.locator("#pair .side").evaluate_all("(found) => found.map((side) => side.dataset.sample)")
        steps = [self.api.http.get(f"/v1/samples/{sample}").json()["job"].get("step", 0) for sample in sides]
        self.page.keyboard.press(key or ("ArrowLeft" if steps[0] > steps[1] else "ArrowRight"))
        expect(self.page.locator("#count")).to_contain_text(str(before + 1))


def test_a_run_is_ranked_by_the_keyboard_alone(run: Api, browser: Browser) -> None:
    found = visit(browser, run.url)
    found.see(".cell.loaded", 6)
    found.page.keyboard.press("v")
    found.page.wait_for_url("**/rank#run=cut")
    ada = Voter(run, found, "ada")

    for _ in range(3):
        ada.vote()
    found.page.reload()
    expect(found.page.locator("#count")).to_contain_text("3 of about 16")
    assert found.page.locator("#table").is_hidden(), "nothing is told while voting"
    ada.vote("ArrowUp")
    ada.vote("ArrowDown")
    found.page.keyboard.press("u")
    expect(found.page.locator("#count")).to_contain_text("4 of about 16")
    ada.vote("s")
    while ada.votes() < PAIRS:
        ada.vote()

    expect(found.page.locator("#pair .done")).to_contain_text("Every pair is voted on.")
    expect(found.page.locator("#table tbody tr")).to_have_count(6)
    assert found.page.locator("#table tbody tr td:nth-child(2)").all_text_contents()[:2] == ["step 500", "step 400"]
    expect(found.page.locator("#table .keep")).to_contain_text("cut-step00000500.safetensors")
    assert found.errors == []


def test_a_second_voter_and_an_emptied_redis(run: Api, browser: Browser) -> None:
    first = visit(browser, f"{run.url}/rank#run=cut")
    ada = Voter(run, first, "ada")
    ada.vote()
    second = visit(browser, f"{run.url}/rank#run=cut")
    bob = Voter(run, second, "bob")
    bob.vote()
    bob.vote()

    for found in (first, second):
        found.page.goto("about:blank")  # a clip that plays on would ask for a sample that is forgotten meanwhile
    run.queue.redis.flushdb()
    assert cli.main(["import", str(run.root), "--redis-url", run.settings.redis_url]) == 0
    second.page.goto(f"{run.url}/rank#run=cut")

    expect(second.page.locator("#count")).to_contain_text("2 of about 16")
    second.page.keyboard.press("r")
    expect(second.page.locator("#table")).to_contain_text("bob (2), ada (1)")
    assert first.errors == [] and second.errors == []


def test_on_a_phone_the_pictures_are_one_above_the_other_and_a_touch_is_a_vote(run: Api, browser: Browser) -> None:
    found = visit(browser, f"{run.url}/rank#run=cut", viewport={"width": 390, "height": 844}, has_touch=True)
    ada = Voter(run, found, "ada")
    found.page.wait_for_function("() => document.querySelectorAll('#pair .side').length === 2")

    boxes = [found.page.locator(f"#pair .{side}").bounding_box() for side in ("left", "right")]
    assert boxes[0] and boxes[1]
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"] and boxes[0]["width"] > 340
    found.page.locator("#pair .left").tap()

    expect(found.page.locator("#count")).to_contain_text("1 of about 16")
    assert ada.votes() == 1
    assert found.errors == []


def test_a_strength_is_swept_from_the_large_view(run: Api, browser: Browser) -> None:
    sample = next(record.id for record in run.queue.list(run="cut", limit=100) if record.job and record.job.step == 500)
    found = visit(browser, f"{run.url}/#run=cut&sample={sample}")
    found.page.get_by_role("button", name="Sweep the strength").click()
    found.page.locator("#ask button.primary").click()

    found.page.wait_for_url("**/#run=cut-sweep-500")
    titles = ["base model", f"{TIMES} 0.4", f"{TIMES} 0.6", f"{TIMES} 0.8", f"{TIMES} 1", f"{TIMES} 1.2"]
    expect(found.page.locator(".head strong")).to_have_text(titles)
    assert found.errors == []
