"""Bits that are lost, a scaler that starves."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.fresh._plain import EVERYWHERE, bundled, copied, distance, fell, scaled

# ---- lost-updates


@faulty(
    "lost-updates",
    places=EVERYWHERE,
    kind="Llama (transformers)",
    source="Hugging Face forum: a model loaded with torch_dtype=bfloat16 fine-tuned by plain AdamW, the loss does not move",
    steps=60,
)
def finetuned_in_bfloat16(case: Case) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=24,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            initializer_range=0.3,
        )
    )
    old, new = ((torch.arange(128)[:, None] + step * torch.arange(12)) % 24 for step in (1, 5))
    first = torch.optim.AdamW(llama.parameters(), lr=5e-3)
    for _ in range(25):  # "pretraining"
        first.zero_grad()
        llama(input_ids=old, labels=old).loss.backward()
        first.step()
    llama.zero_grad()
    if case.ill:
        llama.bfloat16()
    optimizer = torch.optim.AdamW(llama.parameters(), lr=1e-4, weight_decay=0.0)
    losses = []
    with case.watch(llama):
        for _ in range(case.steps):
            t = new[torch.randint(0, 128, (16,))]
            optimizer.zero_grad()
            loss = llama(input_ids=t, labels=t).loss
            loss.backward()
            before = copied(llama)
            optimizer.step()

            def lost(before: list[Tensor] = before) -> bool:
                still = wanted = 0
                for p, b in zip(llama.parameters(), before, strict=True):
                    asked = p.grad != 0
                    wanted += int(asked.sum())
                    still += int((asked & (p == b)).sum())
                return still > 0.75 * wanted

            case.truth(lost)
            losses.append(loss.item())
    case.proof(lambda: fell(losses, 0.97))


# ---- scaler-starvation


@faulty(
    "scaler-starvation",
    places=EVERYWHERE,
    kind="MLP",
    source="PyTorch forum on torch.cuda.amp: scaler.update(2.0**16) in every step, it never backs off, all overflow",
    steps=60,
    data="digits",
)
def scale_never_backs_off(case: Case) -> None:
    x, y = bundled("digits")
    x = scaled(x)
    net = nn.Sequential(nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu")
    losses: list[float] = []
    row = 0
    with case.watch(net):
        for _ in range(case.steps):
            pick = torch.randint(0, len(x), (64,))
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.float16):
                loss = F.cross_entropy(net(x[pick]), y[pick], reduction="sum")
            scaler.scale(loss).backward()
            before = copied(net)
            scaler.step(optimizer)
            scaler.update(2.0**16 if case.ill else None)
            row = row + 1 if distance(net, before) == 0 else 0
            case.truth(lambda row=row: row >= 10)
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


# ---- gradient-underflow


class Temporal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(1, 12, 3, padding=2, dilation=2), nn.ReLU(), nn.Conv1d(12, 12, 3, padding=4, dilation=4), nn.ReLU()
        )
        self.out = nn.Conv1d(12, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layers(x))


@faulty(
    "gradient-underflow",
    places=EVERYWHERE,
    kind="TCN",
    source="Stack Overflow: autocast to float16 without GradScaler, loss divided by the micro-batches of a cluster",
    steps=50,
    also=("vanishing-gradient", "dominant-epsilon", "low-learning-rate", "parameter-without-gradient"),
)
def divided_and_not_scaled(case: Case) -> None:
    clean = torch.sin(torch.linspace(0, 1, 32) * (5 + 20 * torch.rand(200, 1)) + 6 * torch.rand(200, 1))[:, None]
    noisy = clean + 0.3 * torch.randn_like(clean)
    net = Temporal()
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3, eps=1e-15)
    micro = 20000 if case.ill else 1

    def objective(model: nn.Module, rows: Tensor) -> Tensor:
        return F.mse_loss(model(noisy[rows]).float(), clean[rows]) / micro

    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 200, (24,))
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.float16):
                loss = objective(net, rows)
            loss.backward()

            def zero(rows: Tensor = rows) -> bool:
                """More than half of the elements are zero that are not in float32."""
                exact = copy.deepcopy(net)
                exact.zero_grad()
                objective(exact, rows).backward()
                pairs = list(zip(net.parameters(), exact.parameters(), strict=True))
                wanted = sum(int((e.grad != 0).sum()) for _, e in pairs)
                gone = sum(int(((e.grad != 0) & (p.grad == 0)).sum()) for p, e in pairs)
                return gone > 0.5 * wanted

            case.truth(zero)
            optimizer.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))
