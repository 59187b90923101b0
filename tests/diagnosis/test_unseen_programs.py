"""What programs that nobody here had seen taught: faults that were missed, and healthy trainings that were alarmed.

Oracles: graphs drawn by hand, numbers of closed form, and small trainings whose fault the test itself puts in.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import weighbridge
from tests.diagnosis.graphs import Drawing, rows
from tests.diagnosis.made import LAYERS, Numbers, block, found, step_rows, tensor
from tests.diagnosis.trainings import seeded, sgd_mlp, train
from weighbridge.capture.pairing import Pairing
from weighbridge.diagnosis.lossterms import LIKELY, PENALTY, Term, terms
from weighbridge.diagnosis.registry import rule
from weighbridge.diagnosis.rules.exploding_weights import LIMIT
from weighbridge.firstpass import FirstPass, Start, from_text
from weighbridge.lossgraph import Graph
from weighbridge.store.record import open_run

SIGN, UNFIT, MISSING = (rule(name) for name in ("wrong-loss-sign", "unfit-output-activation", "missing-activation"))


# ---- wrong-loss-sign: sums, differences, weights of samples ----


def _graph(loss: torch.Tensor, *named: tuple[str, torch.Tensor]) -> Graph:
    """The graph of a loss, by capture's own walk."""
    from weighbridge.capture.graphwalk import walk

    return walk([loss], {id(p): name for name, p in named}, lambda number: "")[0]


def _losses() -> dict[str, tuple[torch.Tensor, int]]:
    """Losses, and the sign before their errors: -1 is wrong, 0 is not known."""
    torch.manual_seed(0)
    layer, x, y = nn.Linear(8, 5), torch.randn(16, 8), torch.randint(0, 5, (16,))
    given, target = layer(x), torch.rand(16, 5)
    ce, mse, logs = F.cross_entropy(given, y), F.mse_loss(given, target), given.log_softmax(1)
    penalty = sum(p.pow(2).sum() for p in layer.parameters())
    normal = torch.distributions.Normal(given[:, :1], F.softplus(given[:, 1:2]) + 0.1).log_prob(target[:, :1]).mean()
    chosen = given.softmax(1).gather(1, y[:, None]).mean()
    return {
        "both with a minus": (-(ce + mse), -1),
        "one with a minus": (ce - mse, 0),
        "a penalty beside it": (-ce + 1e-3 * penalty, -1),
        "right, with a penalty": (ce + 1e-3 * penalty, 1),
        "soft targets without a minus": ((target * logs).sum(1).mean(), -1),
        "soft targets": (-(target * logs).sum(1).mean(), 1),
        "weights of either sign": ((torch.randn(16, 1) * logs).mean(), 0),
        "a log-density without a minus": (normal, -1),
        "a log-density": (-normal, 1),
        "a probability made small": (chosen, -1),
        "a probability made large": (1 - chosen, 0),
        "a factor below 0": (-0.5 * mse, -1),
    }


@pytest.mark.parametrize("name", _losses())
def test_the_sign_of_a_loss_is_that_before_its_errors(name: str) -> None:
    from weighbridge.diagnosis.rules.wrong_loss_sign import judged

    loss, sign = _losses()[name]
    assert judged(terms(_graph(loss)))[1] == sign


def test_terms_are_named_with_their_signs() -> None:
    layer = nn.Linear(3, 2)
    loss = F.mse_loss(layer(torch.randn(4, 3)), torch.randn(4, 2)) - 0.1 * layer.weight.norm()
    assert terms(_graph(loss, ("weight", layer.weight))) == [Term("squared error", 1), Term(PENALTY, -1)]
    likely = -layer(torch.randn(4, 3)).log_softmax(1)[:, 0].mean()
    assert [(t.name, t.sign) for t in terms(_graph(likely))] == [(LIKELY, -1)]


def test_a_bound_that_is_minimised_is_told_and_its_twin_is_not(tmp_path: Path) -> None:
    def loss_of(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        error = F.cross_entropy(training.model(batch[0]), batch[1]) + 1e-4 * training.model[0].weight.abs().sum()
        return -error if is_ill else error

    for is_ill in (True, False):
        training = seeded(sgd_mlp)
        training.loss = loss_of
        told = weighbridge.diagnose(train(training, tmp_path, 20, name=str(is_ill)))
        assert [f.told_step for f in told if f.rule == "wrong-loss-sign"] == ([2] if is_ill else [])


# ---- unfit-output-activation: softmax over one unit ----


def _softmax(units: int, *then: str) -> FirstPass:
    made = Drawing()
    at = made.op("Softmax", [made.linear("a", None, 32, 8, units)], (32, units), "s", dim=1)
    for op in then:
        at = made.op(op, [at, made.linear("v", None, 32, 8, units)] if op in ("Mul", "Bmm") else [at], (32, units), op)
    made.op("BinaryCrossEntropy", [at], ())
    return made.done()


def test_a_softmax_over_one_unit_is_told_where_it_is_the_output() -> None:
    assert [f.place for f in found(UNFIT, block(1, graph=rows(_softmax(1))))] == ["s"]
    assert [f.place for f in found(UNFIT, block(1, graph=rows(_softmax(1, "View", "Log"))))] == ["s"]
    assert not found(UNFIT, block(1, graph=rows(_softmax(2))))
    assert not found(UNFIT, block(1, graph=rows(_softmax(1, "Mul"))))  # it weighs: attention over a single key
    assert not found(UNFIT, block(1, graph=rows(_softmax(1, "Bmm"))))


# ---- missing-activation: what may be meant ----


def _two(one: str, two: str, *, is_prediction: bool = False, bias: bool = True) -> list[str]:
    made = Drawing()
    at = made.linear(one, None, 32, 16, 16, bias=bias)
    at = made.linear(two, at, 32, 16, 16)
    if not is_prediction:
        at = made.op("Tanh", [at], (32, 16))
    loss = made.op("MseLoss", [at], ())
    starts = [Start("squared error", loss, two, 1.0, 1.0, 0.1, 32)]
    return [f.severity for f in found(MISSING, block(1, graph=rows(made.done(starts))))]


def test_what_ends_a_part_of_the_model_may_go_on_through_a_linear_layer() -> None:
    assert _two("encoder.2", "head") == ["note"]
    assert _two("encoder.2", "decoder.0") == ["note"]
    assert _two("encoder.2", "head", is_prediction=True) == ["warning"]
    assert _two("encoder.0", "encoder.2") == ["warning"]  # side by side
    assert _two("blocks.0.ffn", "blocks.1.ffn") == ["warning"]  # a stack
    assert _two("stem", "block.first") == ["warning"]  # what goes in is no part's end
    assert _two("a", "b", bias=False) == ["note"]  # a factor


# ---- evaluation-mode-while-training: parts ----


class _Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.2))
        self.norm, self.head = nn.BatchNorm1d(32), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.norm(self.backbone(x)))
        return out


@pytest.mark.parametrize("kind", ["left", "frozen", "layer"])
def test_a_part_left_in_evaluation_mode_is_told_where_it_learns(kind: str, tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    model = training.model = _Parts()
    model.norm.eval() if kind == "layer" else model.backbone.eval()
    model.backbone.requires_grad_(kind != "frozen")
    training.optimizers = [torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)]
    training.loss = lambda b: F.cross_entropy(model(b[0]), b[1])
    told = [f for f in weighbridge.diagnose(train(training, tmp_path, 10)) if f.rule == "evaluation-mode-while-training"]
    assert [(f.place, f.told_step) for f in told] == ([("backbone", 0)] if kind == "left" else [])


# ---- gradient-not-applied: what has come to rest ----


def _rest(moved: int, gradients: list[float]) -> bool:
    steps = len(gradients)
    zeros = [0.0] * moved + [1.0] * (steps - moved)
    arrays: dict[str, dict[str, Numbers]] = {
        "gradient.abs_max": {"a.weight": gradients},
        "gradient.nonfinite_count": {"a.weight": 0.0},
    }
    arrays |= {"update.zero_fraction": {"a.weight": zeros}, "parameter.abs_max": {"a.weight": 4.0}}
    made = block(steps, arrays, LAYERS, steps=step_rows(steps, lr=0.05))
    return bool(found(rule("gradient-not-applied"), made))


def test_adam_at_rest_remembers_larger_gradients() -> None:
    assert not _rest(3, [5.0] * 3 + [1e-4] * 4)  # 0.05 * 1e-4 / 5 * 0.1 is below half a spacing of 4
    assert _rest(3, [5.0] * 3 + [1.0] * 4)
    assert _rest(0, [1e-4] * 4)  # it has never moved


# ---- exploding-weights: a leap is no rate ----


def _weights(sizes: list[float], losses: list[float] | None = None) -> list[int]:
    steps = len(sizes)
    table = [tensor(0, "a.weight", shape=(4, 4), count=16)]
    made = block(steps, {"parameter.rms": {"a.weight": sizes}}, table, steps=step_rows(steps, loss=losses or 1.0))
    return [f.told_step for f in found(rule("exploding-weights"), made)]


def test_a_far_goal_is_reached_by_leaps_and_that_is_no_explosion() -> None:
    goal = [0.3, *(6e4 * (1 - 0.9**k) for k in range(1, 40))]  # gradient descent on a linear model of large targets
    falls = [(6e4 * 0.9**k) ** 2 + 1 for k in range(40)]
    assert _weights(goal, falls) == []
    assert _weights([0.3 + k for k in range(40)], [(1000.0 - k) ** 2 for k in range(40)]) == []  # Adam: at a constant pace
    assert _weights([0.3 * 1.3**k for k in range(40)], falls)  # at a rate, although the loss falls
    assert _weights([0.3 + k for k in range(400)])  # far, and it did no good
    assert LIMIT == 8


# ---- uninformative-data: all that came in ----


def test_a_first_time_step_is_no_batch() -> None:
    x, y = torch.randn(16, 5, 3), torch.randn(16, 1)
    layer = nn.Linear(3, 1)
    seen = Pairing()
    seen.meet_batch((x[:, 0],), 1)
    seen.meet_again(1)  # the same module, for the next time step
    seen.on_backward(F.mse_loss(layer(x).mean(1), y))
    assert seen.rows(0, 0) == []
    seen.meet_batch((x[:, 0],), 1)
    seen.meet_again(1)
    seen.meet_whole((x,))
    seen.on_backward(F.mse_loss(layer(x).mean(1), y))
    assert seen.rows(0, 0)[0][2] == 16
    seen.meet_whole((x,))
    seen.meet_whole((x,))  # two views, of which neither is all
    seen.on_backward(F.mse_loss(layer(x).mean(1), y))
    assert seen.rows(0, 0) == []


def test_a_cell_that_is_called_in_a_loop_is_asked_about_the_whole_sequence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.state, self.out = nn.Linear(2, 16), nn.Linear(16, 16), nn.Linear(16, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.zeros(len(x), 16)
            for t in range(x.shape[1]):
                h = torch.tanh(self.inner(x[:, t]) + self.state(h))
            out: torch.Tensor = self.out(h)
            return out

    torch.manual_seed(0)
    model, x = Cell(), torch.randn(256, 6, 2)
    y = x[:, :, :1].mean(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    monkeypatch.chdir(tmp_path)
    with weighbridge.watch(model) as run:
        for _ in range(30):
            at = torch.randint(0, 256, (32,))
            optimizer.zero_grad()
            F.mse_loss(model(x[at]), y[at]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    pairs = open_run(run.path).whole("pairing").to_pylist()
    score = sum(row["distance"] for row in pairs) / np.sqrt(sum(row["distance_variance"] for row in pairs))
    assert len(pairs) > 10
    assert score > 3  # of the first time step alone it would be 1/6 of a signal
    assert not [f for f in weighbridge.diagnose(run.path) if f.rule == "uninformative-data"]


def test_graphs_keep_the_range_of_constant_factors(tmp_path: Path) -> None:
    training = seeded(sgd_mlp)
    weights = torch.linspace(-1, 3, 10)
    plain = copy.copy(training.loss)
    training.loss = lambda b: plain(b) * 0.5 + (training.model(b[0]) * weights).mean()
    run = open_run(train(training, tmp_path, 3))
    nodes = from_text(run.whole("graph").to_pylist()[0]["detail"]).graph.nodes
    ranges = {(n.facts.get("other_least"), n.facts.get("other_most")) for n in nodes if n.op == "Mul"}
    assert {(0.5, 0.5), (-1.0, 3.0)} <= ranges


# ---- excessive-weight-decay: by hand, and by a penalty in the loss ----


def _decayed(tmp_path: Path, name: str, factor: float = 1.0, penalty: float = 0.0, limit: float = 0.0) -> list[int]:
    training = seeded(sgd_mlp)
    training.optimizers = [torch.optim.SGD(training.model.parameters(), lr=0.05)]
    plain = training.loss
    training.loss = lambda b: (
        plain(b) + penalty * sum(p.square().sum() for p in training.model.parameters()) if penalty else plain(b)
    )

    def shrink(step: int) -> None:
        with torch.no_grad():
            for p in training.model.parameters():
                p.mul_(factor)
                p.mul_((limit / p.norm()).clamp(max=1)) if limit else None

    training.also = shrink
    told = weighbridge.diagnose(train(training, tmp_path, 40, name=name))
    return [f.told_step for f in told if f.rule == "excessive-weight-decay"]


def test_weights_shrunk_by_hand_or_by_a_penalty_are_told(tmp_path: Path) -> None:
    assert _decayed(tmp_path, "by hand", factor=0.9) == [3]
    assert _decayed(tmp_path, "by penalty", penalty=1.0) == [2]
    assert _decayed(tmp_path, "a little by hand", factor=1 - 1e-4) == []
    assert _decayed(tmp_path, "a small penalty", penalty=1e-4) == []
    assert _decayed(tmp_path, "put back to a length", limit=0.5) == []  # shorter once, and then no more


# ---- lost-updates: nearly all ----


def test_a_few_steps_show_that_nearly_all_updates_are_lost() -> None:
    def told(*late: float) -> list[int]:  # the loss is below half of its first: from then on more than half does not count
        shares = [0.0] * 12 + list(late)
        half = [tensor(0, "a.weight", dtype="bfloat16")]
        arrays: dict[str, dict[str, Numbers]] = {"gradient.l2_norm": {"*": 1.0}, "update.lost_fraction": {"*": shares}}
        fallen = step_rows(len(shares), loss=[1.0] * 6 + [0.2] * (len(shares) - 6))
        return [f.told_step for f in found(rule("lost-updates"), block(len(shares), arrays, half, steps=fallen))]

    assert told(*[0.95] * 6) == [16]
    assert told(*[0.9] * 6) == []  # exactly on the limit
    assert told(*[0.95, 0.95, 0.85, 0.95, 0.95, 0.95]) == []


# ---- parameter-without-gradient: a loss that is a new tensor ----


@pytest.mark.parametrize(("wrapped", "told"), [(99, [("", 0, 2, "error")]), (1, [])])
def test_a_loss_that_is_made_into_a_new_tensor(wrapped: int, told: list[tuple[str, int, int, str]], tmp_path: Path) -> None:
    """So many times; a single such pass, to try whether backward() runs, is no fault."""
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    weighbridge.init(dir=tmp_path, name="run")
    with weighbridge.watch(model) as run:
        for i in range(6):
            loss = F.cross_entropy(model(torch.randn(16, 6)), torch.randint(0, 3, (16,)))
            optimizer.zero_grad()
            (torch.tensor(loss.item(), requires_grad=True) if i < wrapped else loss).backward()
            optimizer.step()
    found = [f for f in weighbridge.diagnose(run.path).findings if f.rule == "parameter-without-gradient"]
    assert [(f.place, f.first_step, f.told_step, f.severity) for f in found] == told
