"""Adam's second moment, and losses with the wrong sign."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, faulty
from clinic.fresh._plain import EVERYWHERE, bundled, fell, mean, scaled

# ---- stale-second-moment, dominant-epsilon


def against_memory(adam: torch.optim.Adam) -> float:
    """rms of the gradient of now over the root of Adam's bias-corrected second moment."""
    now = kept = 0.0
    for group in adam.param_groups:
        for p in group["params"]:
            if adam.state[p]:
                now += p.grad.double().square().sum().item()
                kept += (
                    adam.state[p]["exp_avg_sq"].double().sum() / (1 - group["betas"][1] ** float(adam.state[p]["step"]))
                ).item()
    return (now / kept) ** 0.5 if kept else 0.0


@faulty(
    "stale-second-moment",
    places=EVERYWHERE,
    kind="DQN",
    source="Mnih et al. 2015 clip rewards; a re-implementation stops in mid-training, Adam with beta2 0.9999",
    steps=140,
    also=("loss-spike", "gradient-spike", "growing-loss", "high-learning-rate", "unfit-output-activation"),
)
def rewards_clipped_no_more(case: Case) -> None:
    q = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 4))
    adam = torch.optim.Adam(q.parameters(), lr=3e-3, betas=(0.9, 0.9999))
    errors = []
    with case.watch(q):
        for step in range(case.steps):
            state, action = torch.randn(64, 6), torch.randint(0, 4, (64,))
            score = state.gather(1, action[:, None])[:, 0] + 0.3
            reward = score.clamp(-1, 1) if not case.ill or step < 90 else 100 * score
            taken = q(state).gather(1, action[:, None])[:, 0]
            error = F.mse_loss(taken, reward)
            adam.zero_grad()
            error.backward()
            case.truth(lambda: against_memory(adam) > 10)
            adam.step()
            errors.append(error.item())
    case.proof(lambda: fell(errors))


@faulty(
    "dominant-epsilon",
    places=EVERYWHERE,
    kind="policy",
    source="A3C's RMSprop epsilon of 0.1 carried over to Adam in a behaviour-cloning script",
    steps=80,
    also=("low-learning-rate", "stalled-loss"),
)
def epsilon_of_another_optimizer(case: Case) -> None:
    seen = torch.randn(500, 8)
    expert = (seen @ torch.randn(8, 5)).argmax(1)
    net = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 5))
    adam = torch.optim.Adam(net.parameters(), lr=1e-3, eps=0.1 if case.ill else 1e-5)
    losses = []

    def small() -> bool:
        """Most roots of the second moment are below half of epsilon."""
        state = [(adam.state[p], adam.param_groups[0]) for p in net.parameters() if adam.state[p]]
        below = [(s["exp_avg_sq"] / (1 - 0.999 ** float(s["step"]))).sqrt() < 0.5 * g["eps"] for s, g in state]
        return bool(below) and mean(b.double().mean().item() for b in below) > 0.8

    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 500, (64,))
            loss = F.cross_entropy(net(seen[rows]), expert[rows])
            adam.zero_grad()
            loss.backward()
            adam.step()
            case.truth(small)
            losses.append(loss.item())
    case.proof(lambda: fell(losses))


# ---- wrong-loss-sign


class Gauss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.mu, self.log_sigma = nn.Sequential(nn.Linear(10, 32), nn.Tanh()), nn.Linear(32, 1), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> torch.distributions.Normal:
        h = self.body(x)
        return torch.distributions.Normal(self.mu(h), self.log_sigma(h).exp())


@faulty(
    "wrong-loss-sign",
    places=EVERYWHERE,
    kind="probabilistic regression",
    source="PyTorch forum, torch.distributions: loss = dist.log_prob(y).mean(), the minus is forgotten",
    steps=80,
    data="diabetes",
    also=(
        "exploding-weights",
        "high-learning-rate",
        "growing-loss",
        "exploding-activation",
        "exploding-gradient",
        "nonfinite-origin",
    ),
)
def log_probability_minimised(case: Case) -> None:
    x, y = bundled("diabetes")
    x, y = scaled(x), scaled(y)
    net = Gauss()
    opt = torch.optim.Adam(net.parameters(), lr=5e-3)

    def honest() -> float:
        return -net(x).log_prob(y).mean().item()

    start, losses = honest(), []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, len(x), (64,))
            log_prob = net(x[rows]).log_prob(y[rows]).mean()
            loss = log_prob if case.ill else -log_prob
            opt.zero_grad()
            loss.backward()
            case.truth(lambda: not honest() < 1.2 * start)
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses, 0.95))


@faulty(
    "wrong-loss-sign",
    places=EVERYWHERE,
    kind="softmax regression",
    source="UFLDL / d2l.ai from scratch: cross-entropy by hand, (one_hot * log_p).sum() without the minus",
    steps=60,
    data="digits",
    also=(
        "exploding-weights",
        "high-learning-rate",
        "growing-loss",
        "exploding-activation",
        "exploding-gradient",
        "nonfinite-origin",
    ),
)
def cross_entropy_by_hand(case: Case) -> None:
    x, y = bundled("digits")
    x, one_hot = scaled(x), F.one_hot(y, 10).float()
    W = nn.Linear(64, 10)
    opt = torch.optim.SGD(W.parameters(), lr=0.1)

    def honest() -> float:
        return F.cross_entropy(W(x), y).item()

    start, losses = honest(), []
    with case.watch(W):
        for _ in range(case.steps):
            rows = torch.randint(0, 1797, (64,))
            log_p = W(x[rows]).log_softmax(1)
            loss = (one_hot[rows] * log_p).sum(1).mean() * (1 if case.ill else -1)
            opt.zero_grad()
            loss.backward()
            case.truth(lambda: not honest() < 1.2 * start)
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses))
