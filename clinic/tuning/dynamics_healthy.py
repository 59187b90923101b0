"""Healthy trainings that tempt rules about scale and step length: small gradients, large outputs, long and short steps."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from clinic.frame import Case, healthy
from clinic.tuning._data import curves, digits_like, draw, words
from clinic.tuning._loop import cross_entropy, squares, train


@healthy(
    kind="CNN", source="Goyal et al. 2017: batch norm, SGD with a large rate, momentum and warm-up, last gamma of a block at 0"
)
def large_rate_with_warm_up(case: Case) -> None:
    data = digits_like()

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.one = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
            self.second, self.two = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
            nn.init.zeros_(self.two.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.relu(x + self.two(self.second(F.relu(self.one(self.first(x))))))

    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), Block(), Block())
    model.extend([nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 6)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.4, momentum=0.9, weight_decay=5e-4)
    warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 60))
    batches = draw(data)
    with case.watch(model):
        for _ in range(case.steps):
            optimizer.zero_grad()
            cross_entropy(model, *next(batches)).backward()
            optimizer.step()
            warm_up.step()
    case.proof(lambda: cross_entropy(model, *data).item() < 0.5 * math.log(6))


@healthy(
    kind="Transformer",
    source="Radford et al. 2019: embeddings of std 0.02, projections scaled by depth, tied head, cosine to 0",
)
def small_gpt(case: Case) -> None:
    x, _ = words()

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.place = nn.Embedding(20, 32), nn.Embedding(24, 32)
            layer = nn.TransformerEncoderLayer(32, 4, 128, dropout=0.1, activation="gelu", batch_first=True, norm_first=True)
            self.blocks = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
            self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 20, bias=False)
            for name, p in self.named_parameters():
                if p.dim() > 1:
                    nn.init.normal_(
                        p, std=0.02 / math.sqrt(8) if name.endswith(("out_proj.weight", "linear2.weight")) else 0.02
                    )
            self.head.weight = self.embed.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
            hidden = self.embed(x) + self.place(torch.arange(x.shape[1]))
            return self.head(self.norm(self.blocks(hidden, mask=mask, is_causal=True)))

    model = Small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 1e-3, 1.0, 30),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, case.steps - 30),
        ],
        [30],
    )
    with case.watch(model):
        for _ in range(case.steps):
            rows = x[torch.randint(0, len(x), (16,))]
            optimizer.zero_grad()
            F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten()).backward()
            optimizer.step()
            schedule.step()
    case.proof(lambda: F.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten()).item() < 0.97 * math.log(20))


@healthy(kind="MLP", source="a tiny network on four points, full batch: the exclusive or of Rumelhart et al. 1986")
def exclusive_or(case: Case) -> None:
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1), nn.Sigmoid())
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0, momentum=0.9)
    with case.watch(model):
        for _ in range(case.steps):
            optimizer.zero_grad()
            F.binary_cross_entropy(model(x), y).backward()
            optimizer.step()
    case.proof(lambda: F.binary_cross_entropy(model(x), y).item() < 0.2)


@healthy(kind="MLP", source="house prices in thousands of dollars: targets of some hundreds, learnt with Adam and no scaling")
def prices_in_thousands(case: Case) -> None:
    x, y = curves()
    y = 200 + 80 * y
    model = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    nn.init.constant_(model[4].bias, y.mean().item())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    train(case, model, optimizer, (x, y), squares)
    case.proof(lambda: squares(model, x, y).item() < 0.9 * y.var().item())


@healthy(kind="MLP", source="Smith 2017: a triangular cycle of the learning rate, up to 30 times its base")
def triangular_cycles(case: Case) -> None:
    x, y = digits_like()
    x = x.flatten(1)
    model = nn.Sequential(nn.Linear(144, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 6))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    cycle = torch.optim.lr_scheduler.CyclicLR(optimizer, 0.005, 0.15, step_size_up=40)
    train(case, model, optimizer, (x, y), after=lambda _: cycle.step())
    case.proof(lambda: cross_entropy(model, x, y).item() < 0.5 * math.log(6))


@healthy(kind="CNN", source="finetuning: a trained network goes on with a hundredth of its rate")
def finetuned(case: Case) -> None:
    data = digits_like()
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten())
    model.append(nn.Linear(144, 6))
    batches = draw(data)
    for rate, steps in ((3e-3, 150), (3e-5, case.steps)):
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
        watched = case.watch(model) if rate == 3e-5 else torch.enable_grad()
        with watched:
            for _ in range(steps):
                optimizer.zero_grad()
                cross_entropy(model, *next(batches)).backward()
                optimizer.step()
    case.proof(lambda: cross_entropy(model, *data).item() < 0.5 * math.log(6))


@healthy(kind="MLP", source="Touvron et al. 2021, CaiT: LayerScale, branches that begin at a millionth")
def layer_scale(case: Case) -> None:
    data = curves()

    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.full((32,), 1e-6))
            self.inside = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.scale * self.inside(x)

    model = nn.Sequential(nn.Linear(12, 32), *(Branch() for _ in range(6)), nn.LayerNorm(32), nn.Linear(32, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    train(case, model, optimizer, data, squares)
    case.proof(lambda: squares(model, *data).item() < 0.9 * data[1].var().item())


@healthy(kind="MLP", source="Sitzmann et al. 2020, SIREN: sines of 30 times the input")
def sines(case: Case) -> None:
    class Sine(nn.Module):
        def __init__(self, inputs: int, outputs: int, bound: float) -> None:
            super().__init__()
            self.linear = nn.Linear(inputs, outputs)
            nn.init.uniform_(self.linear.weight, -bound, bound)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sin(30.0 * self.linear(x))

    bound = math.sqrt(6 / 64) / 30
    model = nn.Sequential(Sine(2, 64, 1 / 2), Sine(64, 64, bound), Sine(64, 64, bound), nn.Linear(64, 1))
    x = 2 * torch.rand(512, 2) - 1
    y = torch.sin(9 * x[:, :1]) * torch.cos(7 * x[:, 1:])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
    train(case, model, optimizer, (x, y), squares, size=None)
    case.proof(lambda: F.mse_loss(model(x), y).item() < 0.2 * y.var().item())


@healthy(kind="RNN", source="a policy gradient without a baseline: returns that scatter tenfold (Williams 1992)")
def scattered_returns(case: Case) -> None:
    class Policy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory, self.head = nn.GRUCell(4, 24), nn.Linear(24, 3)

        def forward(self, seen: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            state = self.memory(seen, state)
            return self.head(state), state

    model = Policy()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    returns: list[float] = []
    with case.watch(model):
        for _ in range(case.steps):
            state, logs, gained = torch.zeros(16, 24), [], torch.zeros(16)
            for _ in range(4):
                seen = torch.randn(16, 4)
                logits, state = model(seen, state)
                action = torch.distributions.Categorical(logits=logits)
                chosen = action.sample()
                logs.append(action.log_prob(chosen))
                gained = gained + (chosen == seen[:, :3].argmax(1)).float() * torch.rand(16) * 5
            returns.append(gained.mean().item())
            optimizer.zero_grad()
            (-(torch.stack(logs).sum(0) * gained).mean()).backward()
            optimizer.step()
    case.proof(lambda: sum(returns[-30:]) > 1.2 * sum(returns[:30]))


@healthy(
    kind="MLP", source="separable data learnt to the end: the loss falls to nothing, weights go on growing (Soudry et al. 2018)"
)
def learnt_by_heart(case: Case) -> None:
    x = torch.randn(32, 20)
    y = (x[:, 0] > 0).long()
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    train(case, model, optimizer, (x, y), size=None)
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 0.01)


@healthy(kind="RNN", source="Le, Jaitly and Hinton 2015: a ReLU network started at the identity, with clipping")
def identity_recurrent(case: Case) -> None:
    data = words()

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.rnn = nn.Embedding(20, 16), nn.RNN(16, 32, nonlinearity="relu", batch_first=True)
            self.head = nn.Linear(32, 4)
            nn.init.eye_(self.rnn.weight_hh_l0)
            nn.init.normal_(self.rnn.weight_ih_l0, std=0.05)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.rnn(self.embed(x))[0][:, -1])

    model = Reader()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    train(case, model, optimizer, data, clip=lambda: nn.utils.clip_grad_norm_(model.parameters(), 1.0))
    case.proof(lambda: cross_entropy(model, *data).item() < 0.7 * math.log(4))


@healthy(kind="MLP", source="Jordan et al. 2024, Muon: orthogonalised steps for hidden layers, Adam for the rest")
def orthogonal_steps(case: Case) -> None:
    x, y = digits_like()
    x = x.flatten(1)
    model = nn.Sequential(nn.Linear(144, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 6))
    muon = torch.optim.Muon([model[2].weight], lr=0.02)
    adam = torch.optim.Adam([p for p in model.parameters() if p is not model[2].weight], lr=3e-3)
    batches = draw((x, y))
    with case.watch(model):
        for _ in range(case.steps):
            for optimizer in (muon, adam):
                optimizer.zero_grad()
            cross_entropy(model, *next(batches)).backward()
            for optimizer in (muon, adam):
                optimizer.step()
    case.proof(lambda: cross_entropy(model, x, y).item() < 0.5 * math.log(6))
