"""Oracle: the training itself, done again beside the page; and what a hand at the page sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import PATIENCE, eventually, expect, serving, where
from weighbridge.format import number
from weighbridge.server.lab import ENDED, WORKERS
from weighbridge.store.record import open_run
from weighbridge.teaching import lessons, link
from weighbridge.teaching.training import Loop

pytestmark = pytest.mark.browser

STEP = "Number((document.querySelector('[data-fact=step]')?.innerText ?? '-1').replace(',', ''))"
READY = "document.querySelector('[data-fact=step]')?.innerText"
PLACES = """JSON.stringify([...document.querySelectorAll('section[aria-label], [data-tensor]')].slice(0, 5)
    .map(one => one.getBoundingClientRect()).map(({x, y, width}) => [x, y, width]))"""
SHORT = "data=moons&layers=3&seed=2"
START = 3 * PATIENCE  # a process of its own begins with PyTorch, and gives way to all others


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("lab")
    with serving(folder) as address:
        yield address, folder


def losses(query: str, steps: int, rates: dict[int, float] | None = None) -> tuple[list[float], Loop]:
    wish = link.read(query)
    loop = Loop(wish.data, wish.variant, wish.seed)
    for step in range(steps):
        loop.rate = (rates or {}).get(step, loop.rate)
        loop.step()
    return loop.training.step_losses, loop


def press(page: Any, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def test_steps_by_hand_show_the_numbers_of_the_training(lab: tuple[str, Path], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{lab[0]}/lab?{SHORT}")
    eventually(page, READY, "0", START)
    for count in (1, 2, 3):
        press(page, "1 step")
        eventually(page, STEP, count)
    truth, loop = losses(SHORT, 3)
    expect(page.locator("[data-fact=loss]")).to_have_text(number(truth[-1], 4))
    for name, parameter in list(loop.model.named_parameters())[:2]:
        shown = page.locator(f"[data-tensor='{name}'] td").evaluate_all(
            "cells => cells.map(cell => Number(cell.dataset.value))"
        )
        assert shown == parameter.detach().reshape(-1).tolist()
    before = page.locator("[data-tensor='0.weight'] td").first.get_attribute("data-value")
    press(page, "▶ Play")
    eventually(page, f"{STEP} > 12")
    press(page, "❚❚ Pause")
    page.get_by_role("button", name="▶ Play").wait_for()
    assert page.locator("[data-tensor='0.weight'] td").first.get_attribute("data-value") != before
    steps = page.evaluate(STEP)
    expect(page.locator("[data-fact=loss]")).to_have_text(number(losses(SHORT, steps)[0][-1], 4))
    page.wait_for_timeout(300)
    assert page.evaluate(STEP) == steps, "it goes on although it is paused"


def test_a_slider_goes_on_with_the_training_and_a_choice_begins_anew(
    lab: tuple[str, Path], open_page: Callable[..., Any]
) -> None:
    page = open_page(f"{lab[0]}/lab?{SHORT}")
    eventually(page, READY, "0", START)
    press(page, "1 step")
    eventually(page, STEP, 1)
    slider = page.get_by_role("slider", name="Learning rate")
    slider.focus()
    page.keyboard.press("ArrowLeft")  # from 0.3 to 0.2
    eventually(page, "new URLSearchParams(location.search).get('lr')", "0.2")
    assert page.evaluate(STEP) == 1
    press(page, "1 step")
    press(page, "1 step")
    eventually(page, STEP, 3)
    expect(page.locator("[data-fact=loss]")).to_have_text(number(losses(SHORT, 3, {1: 0.2})[0][-1], 4))
    press(page, "ReLU")
    eventually(page, STEP, 0)
    assert "act=relu" in where(page)
    page.go_back()
    eventually(page, "document.querySelector('[aria-label=activation] [aria-pressed=true]')?.innerText", "Tanh")


def test_the_address_restores_all_of_it(lab: tuple[str, Path], open_page: Callable[..., Any]) -> None:
    page = open_page(
        f"{lab[0]}/lab?data=xor&layers=5,2&act=sigmoid&bias=101&start=xavier&lr=0.1&batch=16&seed=9&twin=lr:1&layer=1"
    )
    eventually(page, READY, "0", START)
    chosen = "[...document.querySelectorAll('section.controls [aria-pressed=true]')].map(one => one.innerText.trim()).join()"
    eventually(page, chosen, "xor,Sigmoid,1,3,Xavier,most")
    expect(page.get_by_label("units of hidden layer 1")).to_have_value("5")
    expect(page.locator("section.controls")).to_contain_text("16 of 180")
    expect(page.locator("[data-twin]")).to_have_attribute("data-twin", "lr:1")
    eventually(page, "[...document.querySelectorAll('[data-tensor]')].map(one => one.dataset.tensor)", ["2.weight"])
    page.get_by_role("button", name="bias of layer 2").click()
    eventually(page, "new URLSearchParams(location.search).get('bias')", "1")
    page.wait_for_selector("[data-tensor='2.bias']")


def test_the_twin_is_trained_beside_and_can_be_made_the_network(lab: tuple[str, Path], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{lab[0]}/lab?{SHORT}")
    eventually(page, READY, "0", START)
    press(page, "1 step")
    eventually(page, STEP, 1)
    twin = losses(SHORT + "&bias=0", 1)[0][-1]
    said = f"its loss is {number(twin, 4)}, here it is {number(losses(SHORT, 1)[0][-1], 4)}"
    expect(page.locator("[data-twin]")).to_contain_text(said)
    page.get_by_label("Twin, same seed, but").select_option("act:relu")
    eventually(page, "new URLSearchParams(location.search).get('twin')", "act:relu")
    eventually(page, "document.querySelector('[data-twin]')?.dataset.twin", "act:relu")
    press(page, "Make this twin the main network")
    eventually(page, "document.querySelector('[aria-label=activation] [aria-pressed=true]')?.innerText", "ReLU")
    eventually(page, "document.querySelector('[data-twin]')?.dataset.twin", "act:tanh")
    assert page.evaluate("document.activeElement.innerText") == "Make this twin the main network", "the focus was lost"


def test_arrow_keys_walk_the_pictures(lab: tuple[str, Path], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{lab[0]}/lab?{SHORT}&play=6")
    eventually(page, READY, "6")
    page.get_by_role("button", name="▶ Play").wait_for()
    loop = losses(SHORT, 6)[1]
    weight, bias = (parameter.detach() for parameter in list(loop.model.parameters())[:2])
    matrix = page.get_by_role("table", name="0.weight at step 6")
    matrix.focus()
    for key in ("Home", "ArrowDown", "ArrowDown", "ArrowUp", "ArrowRight"):
        page.keyboard.press(key)
    expect(page.locator("[data-tensor='0.weight'] .foot")).to_have_text(f"0.weight[1, 1] = {weight[1, 1].item()}")
    page.locator("[data-tensor='0.bias'] .picture").focus()
    for key in ("Home", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    expect(page.locator("[data-tensor='0.bias'] .tip")).to_contain_text("unit 1, step 1")
    page.locator(".picture[aria-label^='loss at']").focus()
    page.keyboard.press("End")
    expect(page.locator("dl.tip")).to_contain_text(number(losses(SHORT, 6)[0][-1], 4))
    page.locator(".picture[aria-label^='network']").focus()
    for key in ("ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    expect(page.locator("dl.tip [data-value]")).to_have_attribute("data-value", str(bias[1].item()))
    page.keyboard.press("ArrowRight")
    eventually(page, "new URLSearchParams(location.search).get('layer')", "1")
    page.locator(".picture[aria-label^='answer:']").focus()
    page.keyboard.press("End")
    expect(page.locator(".square .tip")).to_contain_text("target")
    assert page.locator("[data-twin]").inner_text().count(" right for ") == 1


def test_every_lesson_is_one_click_away_and_says_what_to_look_at(lab: tuple[str, Path], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{lab[0]}/lab")
    eventually(page, READY, "0", START)
    for lesson in [*lessons.TUTORIALS, *lessons.LESSONS]:
        page.get_by_role("link", name=lesson.title, exact=True).click()
        page.get_by_text(lesson.look).wait_for()
        eventually(page, STEP, 0)
        press(page, "1 step")
        eventually(page, STEP, 1)
        assert page.locator(".said[role=alert]").count() == 0


def test_code_and_keeping(lab: tuple[str, Path], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{lab[0]}/lab?{SHORT}")
    eventually(page, READY, "0", START)
    for count in (1, 2):
        page.keyboard.press("n")
        eventually(page, STEP, count)
    press(page, "Show code")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("for step in range(2):")
    expect(dialog).to_contain_text("weighbridge lab --data moons --layers 2-3-1")
    press(page, "Close")
    press(page, "Keep as run")
    page.get_by_role("link", name="Compare with its twin").click()
    eventually(page, "location.search", "?run=moons-2-3-1-seed-2&run=moons-2-3-1-seed-2-twin-bias-0")
    page.get_by_text("bias").first.wait_for()
    page.go_back()
    eventually(page, "location.pathname", "/lab")
    for name, query in (("moons-2-3-1-seed-2", SHORT), ("moons-2-3-1-seed-2-twin-bias-0", f"{SHORT}&bias=0")):
        assert open_run(lab[1] / name).losses().values.tolist() == losses(query, 2)[0]


def test_a_link_that_is_wrong_is_answered_in_words_and_the_next_choice_is_trained(
    lab: tuple[str, Path], open_page: Callable[..., Any]
) -> None:
    page = open_page(f"{lab[0]}/lab?data=rnig")
    page.get_by_text("Did you mean ring?").wait_for()
    press(page, "Begin with the ring")
    eventually(page, READY, "0", START)


def test_on_a_phone_nothing_is_wider_than_the_screen_and_the_network_comes_first(
    lab: tuple[str, Path], open_page: Callable[..., Any]
) -> None:
    page = open_page(f"{lab[0]}/lab?{lessons.LESSONS[1].link}", width=390)
    eventually(page, READY, "0", START)
    press(page, "1 step")
    eventually(page, STEP, 1)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    tops = [page.locator(f"section[aria-label='{name}']").bounding_box()["y"] for name in ("Network", "What is trained")]
    assert tops == sorted(tops)


def test_a_link_may_say_how_far_and_reset_forgets_it(lab: tuple[str, Path], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{lab[0]}/lab?{SHORT}&play=23")
    eventually(page, READY, "23", START)
    page.get_by_role("button", name="▶ Play").wait_for()
    expect(page.locator("[data-fact=loss]")).to_have_text(number(losses(SHORT, 23)[0][-1], 4))
    press(page, "Reset")
    eventually(page, STEP, 0)
    assert "play" not in where(page)


def test_who_waits_can_choose_meanwhile(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    with serving(tmp_path) as address:
        before = [open_page(f"{address}/lab?{SHORT}") for _ in range(WORKERS)]
        for page in before:
            eventually(page, READY, "0", START)
        last = open_page(f"{address}/lab?{SHORT}")
        last.get_by_text("1 training ahead of you").wait_for()
        press(last, "ReLU")
        eventually(last, "new URLSearchParams(location.search).get('act')", "relu")
        before[0].goto(f"{address}/rules")
        eventually(last, READY, "0", START)
        press(last, "1 step")
        eventually(last, STEP, 1)
        assert last.locator("[data-fact=loss]").inner_text() == number(losses(SHORT + "&act=relu", 1)[0][-1], 4)


def test_nothing_jumps_while_it_plays(lab: tuple[str, Path], open_page: Callable[..., Any]) -> None:
    page = open_page(f"{lab[0]}/lab?{SHORT}")
    eventually(page, READY, "0", START)
    press(page, "1 step")
    eventually(page, STEP, 1)
    before = page.evaluate(PLACES)
    press(page, "▶ Play")
    eventually(page, f"{STEP} > 15")
    assert page.evaluate(PLACES) == before


def test_the_keys_lead_here_and_from_the_empty_list_a_link(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    with serving(tmp_path) as address:
        page = open_page(f"{address}/")
        page.get_by_role("link", name="try it in the Lab").wait_for()
        page.keyboard.press("g")
        page.keyboard.press("l")
        eventually(page, "location.pathname", "/lab")
        page.keyboard.press("g")
        page.keyboard.press("r")
        eventually(page, "location.pathname", "/")


def test_who_leaves_while_a_command_is_on_its_way_finds_no_error(lab: tuple[str, Path], open_page: Callable[..., Any]) -> None:
    """The server learns that a page is gone when its stream closes; a command may come later."""
    page = open_page(f"{lab[0]}/lab?{SHORT}")
    eventually(page, READY, "0", START)
    held: list[Any] = []
    page.route("**/api/lab/tell?*", lambda route: held.append(route))
    press(page, "1 step")
    while not held:
        page.wait_for_timeout(50)
    page.keyboard.press("g")
    page.keyboard.press("r")
    eventually(page, "location.pathname", "/")
    page.unroute("**/api/lab/tell?*")
    page.get_by_role("heading", name="Runs").wait_for()
    late = page.evaluate("fetch('/api/lab/tell?session=gone', { method: 'POST', body: '{}' }).then((told) => told.json())")
    assert late == {"ended": ENDED}
