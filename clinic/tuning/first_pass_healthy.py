"""Healthy trainings that tempt rules about the first pass: scales, losses, biases and affine pairs that are meant so."""

import torch
from torch import nn
from torch.nn import functional as F

from clinic.frame import Case, healthy
from clinic.tuning._data import digits, rows_of
from clinic.tuning._loop import squares, train


@healthy(
    kind="MLP",
    source="fine-tuning: a network trained on five classes, a new head for ten, the first layers slower",
    data="digits",
)
def pretrained_with_a_new_head(case: Case) -> None:
    x, y = digits()
    body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
    before = nn.Sequential(body, nn.Linear(32, 5))
    few = y < 5
    earlier = torch.optim.Adam(before.parameters(), lr=3e-3)
    for _ in range(150):
        rows = rows_of(x[few])
        earlier.zero_grad()
        F.cross_entropy(before(x[few][rows]), y[few][rows]).backward()
        earlier.step()
    model = nn.Sequential(body, nn.Linear(32, 10))
    optimizer = torch.optim.AdamW([{"params": body.parameters(), "lr": 1e-3}, {"params": model[1].parameters(), "lr": 5e-3}])
    train(case, model, optimizer, (x, y))
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 0.7)


@healthy(kind="CNN", source="label smoothing and weights of classes, as in torchvision's references", data="digits")
def smoothed_and_weighted(case: Case) -> None:
    x, y = digits()
    x = x.view(-1, 1, 8, 8)
    weight = torch.linspace(0.2, 5.0, 10)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Linear(144, 10),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    with case.watch(model):
        for _ in range(case.steps):
            rows = rows_of(x)
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows], weight=weight, label_smoothing=0.1).backward()
            optimizer.step()
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 1.2)


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(64, 48), nn.GELU(), nn.Linear(48, 48))
        self.classes, self.sum = nn.Linear(48, 10), nn.Linear(48, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.trunk(x)
        return self.classes(h), F.softplus(self.sum(F.gelu(h)))


@healthy(
    kind="MLP", source="two losses with a pass each, the second for a positive quantity (multi-task tutorials)", data="digits"
)
def two_losses_two_passes(case: Case) -> None:
    x, y = digits()
    total = x.sum(1, keepdim=True) / 20
    model = TwoHeads()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    with case.watch(model):
        for _ in range(case.steps):
            rows = rows_of(x)
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows])[0], y[rows]).backward()
            F.mse_loss(model(x[rows])[1], total[rows]).backward()
            optimizer.step()
    case.proof(lambda: F.cross_entropy(model(x)[0], y).item() < 1.0)


@healthy(kind="MLP", source="distillation with a temperature (Hinton et al. 2015)", data="digits")
def distilled(case: Case) -> None:
    x, y = digits()
    teacher = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    first = torch.optim.Adam(teacher.parameters(), lr=5e-3)
    for _ in range(200):
        rows = rows_of(x)
        first.zero_grad()
        F.cross_entropy(teacher(x[rows]), y[rows]).backward()
        first.step()
    model = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with case.watch(model):
        for _ in range(case.steps):
            rows = rows_of(x)
            with torch.no_grad():
                soft = (teacher(x[rows]) / 4).softmax(1)
            out = model(x[rows])
            loss = 16 * F.kl_div((out / 4).log_softmax(1), soft, reduction="batchmean") + 0.1 * F.cross_entropy(out, y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 1.0)


@healthy(kind="autoencoder", source="a linear code of eight numbers, images from 0 to 1 behind a sigmoid", data="digits")
def linear_code(case: Case) -> None:
    x, _ = digits()
    encode = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 8))
    decode = nn.Sequential(nn.Linear(8, 48), nn.ReLU(), nn.Linear(48, 64), nn.Sigmoid())
    model = nn.Sequential(encode, decode)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    train(case, model, optimizer, (x, x), squares)
    case.proof(lambda: F.mse_loss(model(x), x).item() < 0.7 * x.var(0).mean().item())


class Adapted(nn.Module):
    """A frozen layer with two narrow ones beside it, the second from zero."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a, self.b = nn.Linear(base.in_features, rank, bias=False), nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.b(self.a(x))


@healthy(kind="MLP", source="LoRA (Hu et al. 2021) on every layer of a random network", data="digits")
def low_rank_adapters(case: Case) -> None:
    x, y = digits()
    model = nn.Sequential(Adapted(nn.Linear(64, 64), 8), nn.ReLU(), Adapted(nn.Linear(64, 10), 8))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    train(case, model, optimizer, (x, y))
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 1.0)


@healthy(
    kind="CNN",
    source="feature extraction: a frozen random backbone, normalised, under a linear classifier without a bias",
    data="digits",
)
def frozen_backbone(case: Case) -> None:
    x, y = digits()
    x = x.view(-1, 1, 8, 8)
    backbone = nn.Sequential(nn.Conv2d(1, 64, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten()).requires_grad_(False)
    model = nn.Sequential(backbone, nn.BatchNorm1d(576), nn.Linear(576, 10, bias=False))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    train(case, model, optimizer, (x, y))
    case.proof(lambda: F.cross_entropy(model(x), y).item() < 1.0)


@healthy(kind="MLP", source="one-hot inputs into a layer without a bias: each column is one, and they sum to a constant")
def one_hot_inputs(case: Case) -> None:
    ids = torch.randint(0, 20, (1024,))
    table = torch.randn(20) + 2.0
    x, y = F.one_hot(ids, 20).float(), table[ids, None]
    model = nn.Sequential(nn.Linear(20, 32, bias=False), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    train(case, model, optimizer, (x, y), squares)
    case.proof(lambda: F.mse_loss(model(x), y).item() < 0.3 * y.var().item())


@healthy(kind="transformer", source="token ids up to 500, embeddings from N(0, 0.02), output tied to them (GPT-2)")
def token_ids(case: Case) -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(500, 32)
            self.layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
            self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 500, bias=False)
            nn.init.normal_(self.embed.weight, std=0.02)
            self.head.weight = self.embed.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.norm(self.layer(self.embed(ids))))

    model = Small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    last = 0.0
    with case.watch(model):
        for _ in range(case.steps):
            ids = (torch.randint(0, 20, (16, 1)) * 25 + torch.arange(8)) % 500
            loss = F.cross_entropy(model(ids).flatten(0, 1), ((ids + 1) % 500).flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            last = loss.item()
    case.proof(lambda: last < 4.0)


@healthy(kind="MLP", source="raw columns behind a LayerNorm: the network sees to the scale itself")
def layer_norm_first(case: Case) -> None:
    x = torch.randn(1024, 8) * torch.tensor([1.0, 10.0, 100.0, 1000.0, 1.0, 5.0, 50.0, 500.0]) + 300
    y = torch.sign(x[:, 3:4] - 300) * 0.5
    model = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with case.watch(model):
        for _ in range(case.steps):
            rows = rows_of(x)
            optimizer.zero_grad()
            F.smooth_l1_loss(model(x[rows]), y[rows]).backward()
            optimizer.step()
    case.proof(lambda: F.mse_loss(model(x), y).item() < 0.6 * y.var().item())


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
        self.critic = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))


@healthy(kind="GAN", source="both networks in one module; the generator ends in a layer, the critic begins with one", steps=400)
def generator_and_critic(case: Case) -> None:
    model = Pair()
    g = torch.optim.Adam(model.generator.parameters(), lr=2e-3, betas=(0.5, 0.9))
    d = torch.optim.Adam(model.critic.parameters(), lr=2e-3, betas=(0.5, 0.9))
    centre = torch.tensor([1.5, -1.0])
    with case.watch(model):
        for _ in range(case.steps):
            real, fake = centre + 0.3 * torch.randn(64, 2), model.generator(torch.randn(64, 4))
            judged = [model.critic(real), model.critic(fake.detach())]
            loss = F.softplus(-judged[0]).mean() + F.softplus(judged[1]).mean()
            d.zero_grad()
            loss.backward()
            d.step()
            g.zero_grad()
            F.softplus(-model.critic(model.generator(torch.randn(64, 4)))).mean().backward()
            g.step()
    case.proof(lambda: (model.generator(torch.randn(512, 4)).mean(0) - centre).norm().item() < 1.0)


@healthy(kind="MLP", source="SimCLR (Chen et al. 2020): normalised projections, similarities divided by 0.1", data="digits")
def contrastive(case: Case) -> None:
    x, _ = digits()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def loss_of(given: torch.Tensor) -> torch.Tensor:
        one, two = (F.normalize(model(given + 0.1 * torch.randn_like(given)), dim=1) for _ in range(2))
        return F.cross_entropy(one @ two.T / 0.1, torch.arange(len(given)))

    before = loss_of(x[:64]).item()
    with case.watch(model):
        for _ in range(case.steps):
            loss = loss_of(x[rows_of(x, 64)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    case.proof(lambda: loss_of(x[:64]).item() < 0.7 * before)


@healthy(kind="MLP", source="targets in the thousands, the output's bias started at their mean")
def targets_in_thousands(case: Case) -> None:
    x = torch.randn(1024, 6)
    y = 4000 + 50 * (x[:, :1] + 0.5 * x[:, 1:2] * x[:, 2:3])
    model = nn.Sequential(nn.Linear(6, 48), nn.ReLU(), nn.Linear(48, 1))
    nn.init.constant_(model[2].bias, 4000.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    train(case, model, optimizer, (x, y), squares)
    case.proof(lambda: F.mse_loss(model(x), y).item() < 0.5 * y.var().item())


@healthy(kind="MLP", source="SimSiam's predictor: a projection ends in a batch norm, and a linear layer follows", data="digits")
def projection_and_predictor(case: Case) -> None:
    x, _ = digits()
    project = nn.Sequential(
        nn.Linear(64, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32, bias=False), nn.BatchNorm1d(32)
    )
    predict = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 32))
    model = nn.ModuleDict({"project": project, "predict": predict})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def loss_of(given: torch.Tensor) -> torch.Tensor:
        one, two = (project(given + 0.1 * torch.randn_like(given)) for _ in range(2))
        return (
            -(F.cosine_similarity(predict(one), two.detach()).mean() + F.cosine_similarity(predict(two), one.detach()).mean())
            / 2
        )

    with case.watch(model):
        for _ in range(case.steps):
            loss = loss_of(x[rows_of(x, 64)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    case.proof(lambda: loss_of(x[:256]).item() < -0.6 and project(x).std(0).mean().item() > 0.3)
