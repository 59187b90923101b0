"""Healthy networks, chosen to tempt the lint. Each entry gives (model, batch, loss_fn)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

Program = tuple[nn.Module, Any, Any]
TOKENS = 64


def _ids(rows: int = 4, length: int = 12) -> torch.Tensor:
    return torch.randint(3, TOKENS, (rows, length))


def gpt2() -> Program:
    from transformers import GPT2Config, GPT2LMHeadModel

    ids = _ids()
    config = GPT2Config(vocab_size=TOKENS, n_positions=16, n_embd=32, n_layer=2, n_head=2)
    return GPT2LMHeadModel(config), {"input_ids": ids, "labels": ids}, None


def llama() -> Program:
    from transformers import LlamaConfig, LlamaForCausalLM

    ids = _ids()
    config = LlamaConfig(
        vocab_size=TOKENS, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, attention_bias=True,
    )  # fmt: skip
    return LlamaForCausalLM(config), {"input_ids": ids, "labels": ids}, None


def _bert_config() -> Any:
    from transformers import BertConfig

    return BertConfig(
        vocab_size=TOKENS, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16,
    )  # fmt: skip


def bert_classifier() -> Program:
    from transformers import BertForSequenceClassification

    return BertForSequenceClassification(_bert_config()), {"input_ids": _ids(), "labels": torch.tensor([0, 1, 1, 0])}, None


def bert_masked() -> Program:
    from transformers import BertForMaskedLM

    ids = _ids()
    return BertForMaskedLM(_bert_config()), {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}, None


def t5() -> Program:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=TOKENS, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0)
    return T5ForConditionalGeneration(config), {"input_ids": _ids(), "labels": _ids()}, None


def vit() -> Program:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4,
        num_labels=5,
    )  # fmt: skip
    return ViTForImageClassification(config), {"pixel_values": torch.randn(8, 3, 16, 16), "labels": torch.arange(8) % 5}, None


def resnet() -> Program:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[2, 2], layer_type="bottleneck", num_labels=5)
    return (
        ResNetForImageClassification(config),
        {"pixel_values": torch.randn(8, 3, 32, 32), "labels": torch.arange(8) % 5},
        None,
    )


class Translator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, 32)
        self.core = nn.Transformer(32, 4, 2, 2, 64, batch_first=True)
        self.head = nn.Linear(32, TOKENS)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.head(self.core(self.embed(source), self.embed(target), tgt_mask=mask)).transpose(1, 2)


def transformer() -> Program:
    return Translator(), ((_ids(), _ids()), _ids()), F.cross_entropy


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.project = nn.Linear(8, 16)
        self.core = kind(16, 24, num_layers=2, batch_first=True)  # type: ignore[call-arg]
        self.head = nn.Linear(24, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.core(self.project(x))[0][:, -1])


def lstm() -> Program:
    return Recurrent(nn.LSTM), (torch.randn(16, 6, 8), torch.arange(16) % 4), F.cross_entropy


def gru() -> Program:
    return Recurrent(nn.GRU), (torch.randn(16, 6, 8), torch.arange(16) % 4), F.cross_entropy


def mlp_layer_norm() -> Program:
    model = nn.Sequential(
        nn.Linear(10, 32),
        nn.LayerNorm(32),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(32, 32),
        nn.LayerNorm(32),
        nn.GELU(),
        nn.Linear(32, 3),
    )
    return model, (torch.randn(32, 10), torch.arange(32) % 3), F.cross_entropy


def mlp_functional() -> Program:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = nn.Linear(10, 32), nn.Linear(32, 32), nn.Linear(32, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.three(torch.tanh(self.two(F.leaky_relu(self.one(x)))))

    x = torch.randn(64, 10)
    return Functional(), (x, x.sum(1, keepdim=True)), F.mse_loss


def tutorial_regression() -> Program:
    x = torch.linspace(0, 1, 32)[:, None]
    return nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)), (x, 2 * x - 1), nn.MSELoss()


def binary() -> Program:
    model = nn.Sequential(nn.Linear(6, 16), nn.SiLU(), nn.Linear(16, 1), nn.Sigmoid())
    return model, (torch.randn(32, 6), torch.arange(32).float()[:, None] % 2), F.binary_cross_entropy


def log_softmax() -> Program:
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4), nn.LogSoftmax(1))
    return model, (torch.randn(32, 6), torch.arange(32) % 4), F.nll_loss


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, 16)
        nn.init.normal_(self.embed.weight, std=0.1)
        self.mix = nn.Linear(16, 16)
        self.head = nn.Linear(16, TOKENS, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.mix(self.embed(ids)))).transpose(1, 2)


def tied() -> Program:
    return Tied(), (_ids(), _ids()), F.cross_entropy


class LowRank(nn.Module):
    """A frozen layer with a trainable product of two narrow ones beside it; the second starts at zero."""

    def __init__(self, inside: int, out: int) -> None:
        super().__init__()
        self.base = nn.Linear(inside, out).requires_grad_(False)
        self.a, self.b = nn.Linear(inside, 4, bias=False), nn.Linear(4, out, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.b(self.a(x)) * 2.0


def lora() -> Program:
    model = nn.Sequential(LowRank(12, 24), nn.ReLU(), LowRank(24, 5))
    return model, (torch.randn(16, 12), torch.arange(16) % 5), F.cross_entropy


def autoencoder() -> Program:
    model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4), nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 20))
    x = torch.randn(32, 20)
    return model, (x, x), F.mse_loss


class Variational(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.mean, self.log_variance = nn.Linear(20, 16), nn.Linear(16, 4), nn.Linear(16, 4)
        self.decode = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 20))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        h = torch.relu(self.encode(x))
        mean, log_variance = self.mean(h), self.log_variance(h)
        return self.decode(mean + torch.randn_like(mean) * (log_variance / 2).exp()), mean, log_variance


def _elbo(out: Any, x: torch.Tensor) -> torch.Tensor:
    made, mean, log_variance = out
    return F.mse_loss(made, x) - 0.5 * (1 + log_variance - mean**2 - log_variance.exp()).mean()


def variational() -> Program:
    x = torch.randn(32, 20)
    return Variational(), (x, x), _elbo


class Block(nn.Sequential):
    def __init__(self, inside: int, out: int) -> None:
        super().__init__(
            nn.Conv2d(inside, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True),
            nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True),
        )  # fmt: skip


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep, self.join = Block(3, 8), Block(8, 16), Block(16, 8)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        high = self.down(x)
        low = self.deep(F.max_pool2d(high, 2))
        return self.head(self.join(torch.cat([high, self.up(low)], dim=1)))


def unet() -> Program:
    return UNet(), (torch.randn(4, 3, 16, 16), torch.randint(4, (4, 16, 16))), F.cross_entropy


class Separable(nn.Module):
    """Depthwise and pointwise convolutions with nothing between, and a residual branch that starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.pointwise = nn.Conv2d(16, 16, 1)
        nn.init.zeros_(self.pointwise.weight)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.gelu(self.stem(x))
        h = h + self.pointwise(self.depthwise(h))
        return self.head(F.gelu(h).mean((2, 3)))


def separable() -> Program:
    return Separable(), (torch.randn(8, 3, 8, 8), torch.arange(8) % 4), F.cross_entropy


class Experts(nn.Module):
    """A switch: each sample goes to one expert; one of four gets none."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)) for _ in range(3))
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight, chosen = self.gate(x).softmax(-1).max(-1)
        out = torch.zeros_like(x)
        for i in chosen.unique().tolist():
            picked = (chosen == i).nonzero()[:, 0]
            out = out.index_add(0, picked, weight[picked, None] * self.experts[i](x[picked]))
        return self.head(x + out)


def experts() -> Program:
    return Experts(), (torch.randn(64, 8), torch.arange(64) % 2), F.cross_entropy


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Linear(10, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16, bias=False), nn.BatchNorm1d(16)
        )
        self.predict = nn.Sequential(nn.Linear(16, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 16))

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        one, two = self.trunk(a), self.trunk(b)
        return -(
            F.cosine_similarity(self.predict(one), two.detach()).mean()
            + F.cosine_similarity(self.predict(two), one.detach()).mean()
        )


def siamese() -> Program:
    x = torch.randn(32, 10)
    return Siamese(), (x, x + 0.1 * torch.randn(32, 10)), lambda model, batch: model(*batch)


class Policy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.policy, self.value = nn.Linear(8, 32), nn.Linear(32, 4), nn.Linear(32, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = torch.tanh(self.trunk(x))
        return self.policy(h), self.value(h)


def _policy_gradient(out: Any, batch: Any) -> torch.Tensor:
    actions, returns = batch
    logits, value = out
    chosen = logits.log_softmax(-1).gather(1, actions[:, None])[:, 0]
    return -(chosen * (returns - value[:, 0].detach())).mean() + F.mse_loss(value[:, 0], returns)


def policy() -> Program:
    return Policy(), (torch.randn(64, 8), (torch.arange(64) % 4, torch.randn(64))), _policy_gradient


def distilled() -> Program:
    teacher = nn.Linear(8, 5)
    x = torch.randn(32, 8)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))
    loss = lambda out, t: F.kl_div((out / 2).log_softmax(-1), (t / 2).softmax(-1), reduction="batchmean")
    return model, (x, teacher(x).detach()), loss


def frozen_backbone() -> Program:
    trunk = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU()).requires_grad_(False)
    return nn.Sequential(trunk, nn.Linear(16, 3)), (torch.randn(32, 8), torch.arange(32) % 3), F.cross_entropy


def raw_but_normed() -> Program:
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    return model, (torch.rand(32, 6) * 1000, torch.arange(32) % 3), F.cross_entropy


def group_normed() -> Program:
    """GroupNorm of several channels a group: the bias before it matters."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    return model, (torch.randn(8, 3, 8, 8), torch.arange(8) % 3), F.cross_entropy


def constant_branch() -> Program:
    """Residual blocks of which each branch ends in a zero weight: equal rows, gradients that differ."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(16, 32), nn.Linear(32, 16)
            nn.init.zeros_(self.two.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.two(F.relu(self.one(x)))

    head = nn.Linear(16, 3)
    nn.init.zeros_(head.weight)
    return nn.Sequential(Residual(), Residual(), head), (torch.randn(32, 16), torch.arange(32) % 3), F.cross_entropy


def generator() -> Program:
    model = nn.Sequential(
        nn.ConvTranspose2d(16, 8, 4, bias=False), nn.BatchNorm2d(8), nn.ReLU(True), nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh()
    )
    judge = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(128, 1)).requires_grad_(False)
    loss = lambda model, z: F.binary_cross_entropy_with_logits(judge(model(z)), torch.ones(len(z), 1))
    return model, torch.randn(8, 16, 1, 1), loss


def super_resolution() -> Program:
    """A convolution, a shuffle of its channels into pixels, a convolution: no activation between, and none wanted."""
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 64, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(16, 3, 3)
    )
    return model, (torch.randn(4, 3, 8, 8), torch.randn(4, 3, 14, 14)), F.l1_loss


# Key biases of attention without rotary embedding are redundant, and healthy: at most a note.
WITH_KEY_BIAS = ("bert_classifier", "bert_masked", "vit")
HEALTHY: dict[str, Callable[[], Program]] = {
    make.__name__: make
    for make in (
        gpt2, llama, bert_classifier, bert_masked, t5, vit, resnet, transformer, lstm, gru, mlp_layer_norm, mlp_functional,
        tutorial_regression, binary, log_softmax, tied, lora, autoencoder, variational, unet, separable, experts, siamese,
        policy, distilled, frozen_backbone, raw_but_normed, group_normed, constant_branch, generator, super_resolution,
    )
}  # fmt: skip
