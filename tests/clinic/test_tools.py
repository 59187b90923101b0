"""What adapters of other tools lean on. Oracle: a loop written here, whose optimizer, steps and losses are known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clinic.frame import truths
from clinic.frame.program import programs
from clinic.frame.trial import Trial, tried
from clinic.tools import tool
from clinic.tools.loop import optimizer_of, steps


def test_the_optimizer_is_the_one_that_holds_the_models_parameters() -> None:
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    mine, foreign = torch.optim.SGD(model.parameters(), lr=0.1), torch.optim.Adam(other.parameters())
    assert (optimizer_of(model), optimizer_of(other)) == (mine, foreign)


def test_each_step_is_told_with_its_loss() -> None:
    model = nn.Linear(1, 1)
    optimizer, told, losses = torch.optim.SGD(model.parameters(), lr=0.1), [], []
    with steps(optimizer, told.append):
        for _ in range(3):
            loss = (model(torch.ones(4, 1)) ** 2).mean()
            losses.append(loss.item())
            loss.backward()
            optimizer.step()
    assert told == pytest.approx(losses)
    (model(torch.ones(1, 1)) ** 2).sum().backward()
    optimizer.step()
    assert len(told) == 3  # nothing is left behind


def test_where_nothing_steps_each_backward_pass_is_told_when_the_next_begins() -> None:
    model, told = nn.Linear(1, 1), []
    with steps(torch.optim.SGD(model.parameters(), lr=0.1), told.append):
        for _ in range(3):
            model(torch.ones(1, 1)).sum().backward()
    assert len(told) == 2


def test_a_known_truth_is_taken_and_one_of_a_changed_file_or_another_torch_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    program = next(p for p in programs("tuning") if p.name == "forgotten-zero-grad")
    known = {"first_true": 7, "is_proved": True, "digest": "as before"}
    assert tried(Trial(program, 0, True, known=known), watched=False).first_true == 7
    before = truths.key(program, program.name, 0)
    with monkeypatch.context() as changed:
        changed.setattr(truths.Path, "read_bytes", lambda self: b"changed")
        assert truths.key(program, program.name, 0) != before
    assert truths.key(program, program.name, 0) == before
    monkeypatch.setattr(torch, "__version__", "1.13.1")
    assert truths.key(program, program.name, 0) != before


@pytest.mark.parametrize("name", ["torchmortem", "torch-audit"])
def test_another_tool_watches_a_program_and_says_in_our_words_what_is_wrong_with_it(name: str) -> None:
    program = next(p for p in programs("tuning") if p.name == "negative-bias")
    used = tool(name)
    result = tried(Trial(program, 0, True, tool=name))
    assert used.verdicts() == []
    assert ("dead-units", "3") in {(v.label, v.place) for v in result.verdicts if v.severity in ("error", "warning")}
    assert {v.severity for v in result.verdicts} <= {"error", "warning", "note"}
    assert result.is_same
