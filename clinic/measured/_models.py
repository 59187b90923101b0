"""Networks of the measured part, tiny and of many kinds. None of them has a fault unless it is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def mlp(*sizes: int, act: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), act()]
    return nn.Sequential(*layers[:-1])


class ConvNet(nn.Module):
    """Two convolutions with batch norm, for digits."""

    def __init__(self, width: int = 12, dropout: float = 0.0, norm: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=not norm)
        self.norm1 = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1, bias=not norm)
        self.norm2 = nn.BatchNorm2d(2 * width) if norm else nn.Identity()
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(2 * width * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        return self.fc(self.drop(x.flatten(1)))


class ResidualBlock(nn.Module):
    def __init__(self, width: int, zero: bool = False) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        if zero:
            nn.init.zeros_(self.bn2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class ResNet(nn.Module):
    def __init__(self, width: int = 8, blocks: int = 2, zero: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(*[ResidualBlock(width, zero) for _ in range(blocks)])
        self.fc = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(F.relu(self.bn(self.stem(x)))).mean((2, 3)))


class Recurrent(nn.Module):
    """An RNN, LSTM or GRU of torch's and a head on its last step (or on all)."""

    def __init__(self, cell: nn.Module, outputs: int, every: bool = False) -> None:
        super().__init__()
        self.rnn, self.head, self.every = cell, nn.Linear(cell.hidden_size, outputs), every

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.rnn(x)
        return self.head(h if self.every else h[:, -1])


class SelfAttention(nn.Module):
    """Several heads; `scale` multiplies q.k (1/sqrt(d) by default)."""

    def __init__(self, width: int, heads: int, causal: bool = False, scale: float | None = None) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.value, self.proj = nn.Linear(width, width), nn.Linear(width, width)
        self.heads, self.causal = heads, causal
        self.scale = 1 / math.sqrt(width // heads) if scale is None else scale

    def logits(self, x: Tensor) -> Tensor:
        q, k = (m(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for m in (self.query, self.key))
        return self.scale * q @ k.transpose(-1, -2)

    def forward(self, x: Tensor, allowed: Tensor | None = None) -> Tensor:
        scores = self.logits(x)
        if self.causal:
            scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -math.inf)
        if allowed is not None:
            scores = scores.masked_fill(~allowed[:, None, None, :], -math.inf)
        v = self.value(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(
        self, width: int, heads: int = 2, causal: bool = False, dropout: float = 0.0, scale: float | None = None
    ) -> None:
        super().__init__()
        self.ln1, self.attn = nn.LayerNorm(width), SelfAttention(width, heads, causal, scale)
        self.ln2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, allowed: Tensor | None = None) -> Tensor:
        x = x + self.drop(self.attn(self.ln1(x), allowed))
        return x + self.drop(self.mlp(self.ln2(x)))


class GPT(nn.Module):
    """A decoder; next-token logits."""

    def __init__(self, vocabulary: int = 24, width: int = 24, layers: int = 2, tied: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(64, width)
        self.blocks = nn.ModuleList([Block(width, 2, True, dropout) for _ in range(layers)])
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        for embedding in (self.wte, self.wpe):
            nn.init.normal_(embedding.weight, std=0.02)
        if tied:
            self.lm_head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.ln_f(x))

    def loss(self, tokens: Tensor) -> Tensor:
        return F.cross_entropy(self(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


class ViT(nn.Module):
    """Digits in 16 patches of 2 x 2."""

    def __init__(self, width: int = 24, layers: int = 2, scale: float | None = None) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, 2, stride=2)
        self.cls, self.pos = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(0.02 * torch.randn(1, 17, width))
        self.blocks = nn.Sequential(*[Block(width, 2, scale=scale) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def tokens(self, x: Tensor) -> Tensor:
        patches = self.patch(x).flatten(2).transpose(1, 2)
        return torch.cat([self.cls.expand(len(x), -1, -1), patches], 1) + self.pos

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.tokens(x)))[:, 0])


class Autoencoder(nn.Module):
    def __init__(self, inputs: int = 64, code: int = 8, act: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(inputs, 32, code, act=act), mlp(code, 32, inputs, act=act)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class VAE(nn.Module):
    def __init__(self, inputs: int = 64, code: int = 4) -> None:
        super().__init__()
        self.body, self.mu, self.logvar = (
            nn.Sequential(nn.Linear(inputs, 32), nn.ReLU()),
            nn.Linear(32, code),
            nn.Linear(32, code),
        )
        self.decoder = mlp(code, 32, inputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.body(x)
        mu, logvar = self.mu(h), self.logvar(h)
        return self.decoder(mu + torch.randn_like(mu) * (0.5 * logvar).exp()), mu, logvar

    def elbo(self, x: Tensor, beta: float = 0.1) -> Tensor:
        """The evidence lower bound, to be made large."""
        out, mu, logvar = self(x)
        return -F.mse_loss(out, x) - beta * 0.5 * (logvar.exp() + mu**2 - 1 - logvar).mean()


class GAN(nn.Module):
    """Generator and discriminator of points in the plane."""

    def __init__(self, noise: int = 4, width: int = 24) -> None:
        super().__init__()
        self.noise = noise
        self.generator = nn.Sequential(
            nn.Linear(noise, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2)
        )
        self.critic = nn.Sequential(
            nn.Linear(2, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, 1)
        )

    def fake(self, n: int = 32) -> Tensor:
        return self.generator(torch.randn(n, self.noise))


class UNet(nn.Module):
    """One level down and up again; images in, images out."""

    def __init__(self, width: int = 8, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, width, 3, padding=1, bias=False), norm(width), nn.ReLU())
        self.middle = nn.Sequential(nn.Conv2d(width, 2 * width, 3, padding=1, bias=False), norm(2 * width), nn.ReLU())
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.out = nn.Sequential(nn.Conv2d(2 * width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        a = self.down(x)
        return self.out(torch.cat([a, self.up(self.middle(F.max_pool2d(a, 2)))], 1))


class MoE(nn.Module):
    """The best of several experts for each sample, weighted by its gate."""

    def __init__(self, inputs: int, outputs: int, experts: int = 4, width: int = 16, top: int = 1) -> None:
        super().__init__()
        self.router = nn.Linear(inputs, experts, bias=False)
        self.experts = nn.ModuleList([mlp(inputs, width, outputs) for _ in range(experts)])
        self.top = top

    def forward(self, x: Tensor) -> Tensor:
        gates, chosen = self.router(x).softmax(-1).topk(self.top, dim=-1)
        out = x.new_zeros(len(x), self.experts[0][-1].out_features)
        for i, expert in enumerate(self.experts):
            rows, slot = (chosen == i).nonzero(as_tuple=True)
            if len(rows):
                out = out.index_add(0, rows, gates[rows, slot, None] * expert(x[rows]))
        return out


class GCN(nn.Module):
    """Graph convolutions (Kipf & Welling): A.X.W, with A as it is given."""

    def __init__(self, *sizes: int, residual: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in pairwise(sizes)])
        self.residual = residual

    def hidden(self, x: Tensor, adjacency: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            h = F.relu(adjacency @ layer(x))
            x = x + h if self.residual and x.shape == h.shape else h
        return x

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return adjacency @ self.layers[-1](self.hidden(x, adjacency))


class Mixer(nn.Module):
    """MLP-mixer on the 16 patches of digits."""

    def __init__(self, width: int = 16, layers: int = 2) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, 2, stride=2)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2 * layers)])
        self.token = nn.ModuleList([mlp(16, 32, 16, act=nn.GELU) for _ in range(layers)])
        self.channel = nn.ModuleList([mlp(width, 32, width, act=nn.GELU) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        for i, (token, channel) in enumerate(zip(self.token, self.channel, strict=True)):
            x = x + token(self.norms[2 * i](x).transpose(1, 2)).transpose(1, 2)
            x = x + channel(self.norms[2 * i + 1](x))
        return self.head(self.norm(x).mean(1))


class LoRA(nn.Module):
    """A frozen linear layer and a learnt difference of low rank, which begins at zero."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(rank, base.in_features) / math.sqrt(base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.a.T @ self.b.T


def normalised(adjacency: Tensor) -> Tensor:
    """D^-1/2 A D^-1/2."""
    d = adjacency.sum(1).rsqrt()
    return d[:, None] * adjacency * d[None, :]


def gpt2(vocabulary: int = 24, layers: int = 2) -> nn.Module:
    """transformers' GPT-2 from a small config."""
    from transformers import GPT2Config, GPT2LMHeadModel

    special = {"bos_token_id": 0, "eos_token_id": 0, "use_cache": False}
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_positions=32, n_embd=24, n_layer=layers, n_head=2, **special))


def bert(vocabulary: int = 24, classes: int = 2) -> nn.Module:
    """transformers' BERT for classification from a small config."""
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    return BertForSequenceClassification(
        BertConfig(vocab_size=vocabulary, max_position_embeddings=32, num_labels=classes, pad_token_id=0, **sizes)
    )
