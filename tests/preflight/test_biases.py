"""The model without its redundant biases. Oracle: outputs of both models, in both modes, and the same training."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import weighbridge
from weighbridge.errors import BadInput, WeighbridgeError
from weighbridge.preflight import biases


def trained() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 6, 1),
        nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3), nn.Conv2d(6, 5, 3), nn.InstanceNorm2d(5, track_running_stats=True),
    )  # fmt: skip
    with torch.no_grad():
        for module in model:
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                module.bias.normal_(std=3)
    for _ in range(20):
        model(torch.randn(8, 3, 16, 16) * 2 + 1)
    return model


@pytest.mark.parametrize("is_training", [True, False])
def test_outputs_are_the_same_on_data_it_has_not_seen(is_training: bool, capsys: pytest.CaptureFixture[str]) -> None:
    model = trained()
    slim = weighbridge.without_redundant_biases(model, torch.randn(4, 3, 16, 16))
    gone = sorted(set(dict(model.named_parameters())) - set(dict(slim.named_parameters())))
    assert gone == ["0.bias", "3.bias", "5.bias", "9.bias"]
    assert "0.bias, 3.bias, 5.bias, 9.bias, 19 parameters" in capsys.readouterr().out
    x, made = torch.randn(16, 3, 16, 16), []
    for each in (model, slim):
        torch.manual_seed(1)
        made.append(copy.deepcopy(each).train(is_training)(x))
    torch.testing.assert_close(made[0], made[1], rtol=1e-4, atol=1e-4)


def test_a_batch_is_made_up_where_the_first_layer_says_what_it_takes() -> None:
    for first, rest in ((nn.Linear(7, 4), 4), (nn.Conv1d(3, 4, 3), 4), (nn.Conv3d(2, 4, 3), 4)):
        norm = {nn.Linear: nn.BatchNorm1d, nn.Conv1d: nn.BatchNorm1d, nn.Conv3d: nn.BatchNorm3d}[type(first)](rest)
        slim = weighbridge.without_redundant_biases(nn.Sequential(first, norm))
        assert slim[0].bias is None  # type: ignore[index]
        assert first.bias is not None


def test_without_a_batch_that_fits_it_says_what_to_do() -> None:
    with pytest.raises(BadInput, match=r"without_redundant_biases\(model, batch\)"):
        weighbridge.without_redundant_biases(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(5, 4)))
    with pytest.raises(BadInput, match="give a batch"):
        weighbridge.without_redundant_biases(nn.LayerNorm(4))


def test_a_bias_that_an_output_shows_is_kept() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

        def forward(self, x: torch.Tensor) -> Any:
            h = self.one(x)
            return self.norm(h), h

    slim: Any = weighbridge.without_redundant_biases(Both())
    assert slim.one.bias is not None


def test_a_bias_before_a_functional_norm_with_running_statistics_is_kept() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(4, 4)
            self.register_buffer("mean", torch.zeros(4))
            self.register_buffer("var", torch.ones(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.batch_norm(self.one(x), self.mean, self.var, training=self.training)

    slim: Any = weighbridge.without_redundant_biases(Own())
    assert slim.one.bias is not None


def test_outputs_that_differ_are_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(biases, "_move_running_means", lambda *_: None)
    with pytest.raises(WeighbridgeError, match=r"differs by .* in evaluation mode"):
        weighbridge.without_redundant_biases(trained(), torch.randn(4, 3, 16, 16))


def test_key_biases_of_attention_are_left_out() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(
                *(f(x).unflatten(-1, (2, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
            )

    slim: Any = weighbridge.without_redundant_biases(Attention(), torch.randn(3, 5, 8))
    assert (slim.q.bias is not None, slim.k.bias, slim.v.bias is not None) == (True, None, True)
