"""No finding on healthy networks. Oracle: they are healthy by construction (tests/preflight/healthy.py)."""

from __future__ import annotations

import pytest
import torch

from tests.preflight.healthy import HEALTHY, WITH_KEY_BIAS
from weighbridge.diagnosis import Outcome
from weighbridge.preflight.inspect import inspect

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers and of torch's nested tensors


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_network_has_no_finding(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    model, batch, loss_fn = HEALTHY[name]()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    found = inspect(model, batch, loss_fn, optimizer)
    expected = [("redundant-bias", "note")] if name in WITH_KEY_BIAS else []
    assert [(f.rule, f.severity) for f in found.findings] == expected, str(found)
    assert Outcome.FAILED not in {a.outcome for a in found.answers}, "a rule failed"
    assert found.layers


def test_the_one_expected_note_names_exactly_the_key_biases() -> None:
    torch.manual_seed(0)
    model, batch, loss_fn = HEALTHY["bert_masked"]()
    (note,) = inspect(model, batch, loss_fn).findings
    keys = {name: p.numel() for name, p in model.named_parameters() if name.endswith("key.bias")}
    assert dict(note.evidence[0].rows) == keys  # type: ignore[union-attr]
