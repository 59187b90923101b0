"""Oracle: the trainings themselves. Every lesson shows what it says, and every sentence about a twin is what was measured."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from weighbridge.teaching import lessons, link, twin
from weighbridge.teaching.answers import Observer, guessing
from weighbridge.teaching.player import TRACE_ROWS, Player
from weighbridge.teaching.training import one_thread

EVERY = [*lessons.TUTORIALS, *lessons.LESSONS]


def played(query: str, steps: int, folder: Path, rounding: float = 0.0) -> Player:
    with one_thread():
        player = Player(query, folder)
        for loop in player.loops:
            for i, parameter in enumerate(loop.model.parameters()):
                parameter.data.mul_(1 + rounding * (-1) ** i)
        for _ in range(steps):
            player.step()
    return player


def losses(player: Player) -> tuple[float, float]:
    return tuple(loop.training.step_losses[-1] for loop in player.loops)  # type: ignore[return-value]


def moved(player: Player, name: str) -> float:
    start = link_start(player)
    return float((dict(player.loop.model.named_parameters())[name] - start[name]).detach().abs().max())


def link_start(player: Player) -> dict[str, torch.Tensor]:
    from weighbridge.teaching.networks import build

    return dict(build(player.wish.variant.options, player.wish.data, player.wish.seed).named_parameters())


def of_the_tutorial(player: Player) -> None:
    assert player.wish.sizes == (2, 4, 1)
    assert losses(player)[0] < player.loop.training.step_losses[0]
    assert moved(player, "0.weight") > 0.01
    assert moved(player, "0.bias") > 0.01


def one_layer_in_three(player: Player) -> None:
    assert player.wish.sizes == (3, 4, 4, 2)
    x, y = player.loop.parts.train_x.double(), player.loop.parts.train_y.double()
    with_one = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1)
    best = float(((with_one @ torch.linalg.lstsq(with_one, y).solution - y) ** 2).mean())
    assert losses(player)[0] >= best * (1 - 1e-5)  # no linear function is better
    assert losses(player)[1] < 0.6 * best


def no_ring(player: Player) -> None:
    assert losses(player)[0] > 0.9 * player.guess > 0.6
    assert losses(player)[1] < 0.1


def nothing_comes_through(player: Player) -> None:
    assert player.wish.sizes == (2, *[4] * 9, 1)  # ten layers
    assert losses(player)[0] > 0.99 * player.guess
    assert losses(player)[1] < 0.1
    assert moved(player, "0.weight") < 1e-5 < moved(player, "18.bias")
    assert "vanishing-gradient" in [one["rule"] for one in player.diagnose()["findings"]]


def all_the_same(player: Player) -> None:
    for name, parameter in player.loop.model.named_parameters():
        assert bool((parameter == 0).all()) == (name != "4.bias"), name
    assert losses(player)[1] < 0.1
    assert player.diagnose()["findings"]


def too_far(player: Player) -> None:
    assert losses(player)[0] > 5 * losses(player)[1]
    assert max(player.loop.training.step_losses) > player.loop.training.step_losses[0]


def no_difference(player: Player) -> None:
    x = player.views[0].x
    here, there = (observer.layers(x)[-1] for observer in player.observers)
    assert float((here - there).abs().max()) < 0.05
    assert "redundant-bias" in [one["rule"] for one in player.diagnose()["findings"]]


def a_straight_line(player: Player) -> None:
    x = player.views[0].x.double()
    answer = player.observers[0].layers(player.views[0].x)[-1].double()
    with_one = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1)
    fit = with_one @ torch.linalg.lstsq(with_one, answer).solution
    assert float((fit - answer).abs().max()) < 1e-4
    assert losses(player)[0] > 0.9 * player.guess
    assert losses(player)[1] < 0.3
    assert "missing-activation" in [one["rule"] for one in player.diagnose()["findings"]]


def a_border_through_zero(player: Player) -> None:
    assert player.wish.sizes == (2, 1)
    weight, bias = (p.detach().double() for p in player.loop.model.parameters())
    assert float(bias.abs() / weight.norm()) > 0.7  # how far from (0, 0) the border is: the data's is 1.5 / sqrt(2) away
    assert "bias" not in str(dict(player.loops[1].model.named_parameters()).keys())
    assert losses(player)[1] > 1.5 * losses(player)[0]


def no_border_for_xor(player: Player) -> None:
    assert losses(player)[0] > 0.95 * player.guess
    assert losses(player)[1] < 0.1
    assert player.frame()["twin"]["said"]["title"] == "With 4 hidden units it learns, and this network does not"


def too_large(player: Player) -> None:
    rules = {one["rule"] for one in player.diagnose()["findings"]}
    assert {"wrong-initial-scale", "exploding-gradient"} <= rules
    assert player.loop.training.step_losses[0] > 10 * player.guess
    assert losses(player)[0] > 0.95 * player.guess
    assert losses(player)[1] < 0.1


def no_way_back(player: Player) -> None:
    assert "dead-units" in {one["rule"] for one in player.diagnose()["findings"]}
    assert losses(player)[0] > 0.95 * player.guess
    assert losses(player)[1] < 0.1


def nothing_to_shift(player: Player) -> None:
    assert losses(player)[0] < 0.7 * player.guess
    assert losses(player)[1] == pytest.approx(losses(player)[0], rel=1e-3)


SHOWS: list[Callable[[Player], None]] = [
    of_the_tutorial,
    one_layer_in_three,
    a_border_through_zero,
    no_border_for_xor,
    no_ring,
    nothing_comes_through,
    all_the_same,
    too_large,
    no_way_back,
    too_far,
    no_difference,
    nothing_to_shift,
    a_straight_line,
]


@pytest.mark.parametrize(("lesson", "shows"), list(zip(EVERY, SHOWS, strict=True)), ids=[lesson.title for lesson in EVERY])
@pytest.mark.parametrize("rounding", [0.0, 1e-6, -3e-6])
def test_a_lesson_shows_what_it_says(
    lesson: lessons.Lesson, shows: Callable[[Player], None], rounding: float, tmp_path: Path
) -> None:
    """Also from a start that differs in the last bits: processors round sums differently, and every reader has to see it."""
    player = played(lesson.link, lesson.steps, tmp_path, rounding)
    shows(player)
    player.close()


@pytest.mark.parametrize("lesson", EVERY, ids=[lesson.title for lesson in EVERY])
def test_a_link_of_a_twin_makes_the_twin_the_network_and_back(lesson: lessons.Lesson, tmp_path: Path) -> None:
    player = played(lesson.link, 0, tmp_path)
    there = link.read(player.opened()["twin"]["link"])
    assert there.variant.options == player.wish.twin.variant.options  # type: ignore[union-attr]
    assert there.twin is not None
    assert there.twin.variant.options == player.wish.variant.options
    player.close()


@pytest.mark.parametrize(
    ("query", "steps", "title", "words"),
    [
        ("", 0, "Without biases: not trained yet", []),
        (
            "",
            900,
            "Without biases it has learned nothing so far",
            [
                "exactly 0",
                "−x is the opposite of",
                "guessing gives 0.6929",
                "right for 35 of 60 rows kept back, this network for 60",
            ],
        ),
        ("bias=0", 900, "With biases it learns, and this network does not", ["This network's output for −x"]),
        ("act=relu", 200, "", ["output for twice the input is twice that for it"]),
        ("act=sigmoid", 1, "Without biases there is hardly a difference so far", ["After 1 step its loss"]),
        ("twin=seed:5&seed=5", 5, "With seed 5 there is hardly a difference so far", ["the same at all 1,024 points"]),
        ("data=tutorial&layers=4&act=relu&lr=3&twin=lr:0.001", 30, "With learning rate 0.001 the loss stays finite", []),
        ("data=bends&twin=off", 1, "", []),
    ],
)
def test_the_sentence_is_what_was_measured(query: str, steps: int, title: str, words: list[str], tmp_path: Path) -> None:
    player = played(query, steps, tmp_path)
    frame = player.frame()
    player.close()
    if "twin=off" in query:
        assert frame["twin"] is None
        return
    said = frame["twin"]["said"]
    assert title in said["title"]
    for word in words:
        assert word in said["text"]
    if steps and math.isfinite(sum(losses(player))):
        one, other = losses(player)
        assert f"its loss is {twin.number(other, 4)}, here it is {twin.number(one, 4)}" in said["text"]
    if "act=sigmoid" in query:
        assert "opposite" not in said["text"]  # a sigmoid is no odd function
        assert "exactly 0" not in said["text"]


def test_what_units_answer_is_what_the_modules_give(tmp_path: Path) -> None:
    player = played("data=iris&layers=5,4&norm=batch&act=relu", 7, tmp_path)
    x = player.loop.parts.train_x[:9]
    found = Observer(player.loop).layers(x)
    was_training = player.loop.model.training
    model = player.loop.model.eval()
    with torch.no_grad():
        for layer, end in zip(found, (3, 6, 7), strict=True):
            assert torch.equal(layer, model[:end](x))
    model.train(was_training)
    player.close()


def test_watching_and_drawing_change_no_bit_of_the_training(tmp_path: Path) -> None:
    from weighbridge.teaching.training import Loop

    query = "data=wine&layers=6&norm=batch&batch=16"
    player = Player(query, tmp_path)
    plain = Loop(player.wish.data, player.wish.variant, player.wish.seed)
    for _ in range(20):
        player.step()
        player.frame()
        plain.step()
    player.diagnose()
    player.close()
    assert player.loop.training.step_losses == plain.training.step_losses


def test_guessing_is_the_loss_of_the_best_constant_answer() -> None:
    for query in ("", "data=iris", "data=diabetes"):
        wish = link.read(query)
        from weighbridge.teaching.training import Loop

        loop = Loop(wish.data, wish.variant, 0)
        y, loss = loop.parts.train_y, wish.variant.options.loss_for(wish.data)
        if loss == "mse":
            truth = torch.nn.functional.mse_loss(y.mean(0).expand_as(y), y)
        else:
            shares = torch.bincount(y) / len(y)
            truth = torch.nn.functional.cross_entropy(shares.log().expand(len(y), -1), y)
        assert guessing(wish.data, loop.parts, loss) == pytest.approx(float(truth), rel=1e-5)


def test_a_trace_keeps_few_steps_and_the_values_that_made_each_loss(tmp_path: Path) -> None:
    player = played("data=tutorial&layers=2&lr=0.001&twin=off", 0, tmp_path)
    kept: dict[int, float] = {}
    weights = {}
    for step in range(1000):
        weights[step] = player.loop.model[0].weight.detach().numpy().ravel().copy()
        player.step()
        if step % 37 == 0:
            news = player.trace.news()
            for i, at in enumerate(news["steps"]):
                kept[at] = news["losses"][0][i]
                each = np.frombuffer(base64.b64decode(news["values"]["0.weight"]), "<f4")
                assert each.reshape(len(news["steps"]), -1)[i].tolist() == weights[at].tolist()
            kept = {at: loss for at, loss in kept.items() if at % news["every"] == 0}
    player.close()
    assert 100 < len(kept) <= TRACE_ROWS
    assert all(player.loop.training.step_losses[at] == loss for at, loss in kept.items())


def test_the_tutorials_lead_to_their_networks() -> None:
    pages = Path(__file__).parents[2] / "docs" / "tutorials"
    for lesson, page in zip(lessons.TUTORIALS, ("weights-and-biases.md", "bias.md"), strict=True):
        assert f"`/lab?{lesson.link}`" in (pages / page).read_text(encoding="utf-8")
