"""Healthy trainings on tokens and series that tempt: each looks, in one respect, like a fault."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinic.frame import Case, healthy
from clinic.measured._data import marked, pick, sentences, waves
from clinic.measured._loop import fit, mean, on_batches
from clinic.measured._models import GPT, Block, Recurrent, bert, gpt2


@healthy(kind="GPT", source="nanoGPT: tied weights, warm-up from zero, clipping at one, four micro-steps")
def nanogpt_recipe(case: Case) -> None:
    tokens = sentences()
    model = GPT(tied=True, dropout=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(s / 50, 1.0))
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            optimizer.zero_grad(set_to_none=True)
            for _ in range(4):
                loss = model.loss(tokens[pick(len(tokens), 8)]) / 4
                loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    case.proof(lambda: mean(losses[-10:]) < 0.8 * mean(losses[:10]))


@healthy(kind="GPT-2 (transformers)", source="Hugging Face course: GPT-2 from a config, AdamW, linear decay to zero")
def gpt2_linear_decay(case: Case) -> None:
    tokens = sentences()
    model = gpt2()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=case.steps)

    def loss() -> Tensor:
        t = tokens[pick(len(tokens), 16)]
        return model(input_ids=t, labels=t).loss

    fit(case, model, optimizer, loss, schedule=schedule, learns=0.8)


@healthy(kind="BERT (transformers)", source="Hugging Face course: classification with an attention mask over padding")
def bert_with_padding(case: Case) -> None:
    tokens = sentences(length=12) % 23 + 1
    lengths = torch.randint(4, 13, (len(tokens), 1))
    mask = (torch.arange(12)[None] < lengths).long()
    tokens = tokens * mask
    y = (tokens[:, 0] > 11).long()
    model = bert()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def loss() -> Tensor:
        r = pick(len(y), 16)
        return model(input_ids=tokens[r], attention_mask=mask[r], labels=y[r]).loss

    fit(case, model, optimizer, loss)


@healthy(
    kind="embedding bag", source="recommenders: an embedding of a thousand rows with sparse gradients; most rows are not met"
)
def sparse_embedding(case: Case) -> None:
    model = nn.ModuleDict({"bag": nn.EmbeddingBag(1000, 8, mode="mean", sparse=True), "out": nn.Linear(8, 2)})
    words = (1000 * torch.rand(512, 6) ** 4).long()
    y = (words % 2).float().mean(1).gt(0.5).long()
    rare, dense = (
        torch.optim.SparseAdam(list(model["bag"].parameters()), lr=0.02),
        torch.optim.Adam(model["out"].parameters(), lr=1e-2),
    )
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            r = pick(512)
            rare.zero_grad(), dense.zero_grad()
            loss = F.cross_entropy(model["out"](model["bag"](words[r])), y[r])
            loss.backward()
            rare.step(), dense.step()
            losses.append(loss.item())
    case.proof(lambda: mean(losses[-20:]) < 0.9 * mean(losses[:10]))


@healthy(kind="LSTM", source="Karpathy's char-rnn: two layers, dropout between, clipping")
def char_lstm(case: Case) -> None:
    tokens = sentences(length=20)
    model = nn.ModuleDict(
        {"embed": nn.Embedding(24, 16), "rnn": nn.LSTM(16, 24, 2, dropout=0.2, batch_first=True), "out": nn.Linear(24, 24)}
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    def loss() -> Tensor:
        t = tokens[pick(len(tokens), 16)]
        return F.cross_entropy(model["out"](model["rnn"](model["embed"](t[:, :-1]))[0]).flatten(0, 1), t[:, 1:].flatten())

    fit(case, model, optimizer, loss, clip=lambda: torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5), learns=0.8)


@healthy(kind="GRU", source="PyTorch chatbot tutorial: packed sequences of different lengths")
def packed_sequences(case: Case) -> None:
    x = torch.randn(256, 12, 3)
    lengths = torch.randint(3, 13, (256,))
    keep = torch.arange(12)[None] < lengths[:, None]
    y = ((x[..., 0] * keep).sum(1) > 0).long()
    model = nn.ModuleDict({"rnn": nn.GRU(3, 16, batch_first=True), "out": nn.Linear(16, 2)})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    def loss() -> Tensor:
        r = pick(256)
        packed = nn.utils.rnn.pack_padded_sequence(x[r], lengths[r], batch_first=True, enforce_sorted=False)
        return F.cross_entropy(model["out"](model["rnn"](packed)[1][0]), y[r])

    fit(case, model, optimizer, loss, learns=0.7)


@healthy(kind="Transformer encoder", source="Xiong et al. 2020: ten pre-norm layers without warm-up")
def deep_pre_norm_encoder(case: Case) -> None:
    tokens = sentences(length=8)
    y = (tokens[:, 0] > 11).long()
    model = nn.Sequential(
        nn.Embedding(24, 16), *[Block(16) for _ in range(10)], nn.LayerNorm(16), nn.Flatten(), nn.Linear(128, 2)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    fit(case, model, optimizer, on_batches(model, tokens, y, size=16), learns=0.7)


@healthy(
    kind="seq2seq",
    source="PyTorch seq2seq tutorial: encoder and decoder with an optimizer each, teacher forcing half of the time",
)
def two_optimizers_and_teacher_forcing(case: Case) -> None:
    tokens = sentences(length=8)
    model = nn.ModuleDict(
        {
            "embed": nn.Embedding(24, 12),
            "encoder": nn.GRU(12, 24, batch_first=True),
            "decoder": nn.GRU(12, 24, batch_first=True),
            "out": nn.Linear(24, 24),
        }
    )
    a = torch.optim.Adam([*model["embed"].parameters(), *model["encoder"].parameters()], lr=5e-3)
    b = torch.optim.Adam([*model["decoder"].parameters(), *model["out"].parameters()], lr=5e-3)
    losses = []
    with case.watch(model):
        for _ in range(case.steps):
            t = tokens[pick(len(tokens), 16)]
            a.zero_grad(), b.zero_grad()
            _, h = model["encoder"](model["embed"](t))
            given, scores = torch.zeros(16, dtype=torch.long), []
            forced = torch.rand(()) < 0.5
            for i in range(8):
                o, h = model["decoder"](model["embed"](given)[:, None], h)
                scores.append(model["out"](o[:, 0]))
                given = t[:, i] if forced else scores[-1].argmax(1)
            loss = F.cross_entropy(torch.stack(scores, 1).flatten(0, 1), t.flatten())
            loss.backward()
            a.step(), b.step()
            losses.append(loss.item())
    case.proof(lambda: mean(losses[-10:]) < 0.95 * mean(losses[:5]))


@healthy(kind="LSTM", source="forecasting tutorial: heavy-tailed noise on the targets, Huber loss", steps=300)
def forecaster_with_outliers(case: Case) -> None:
    x = waves(length=16)
    x = x + 0.3 * torch.distributions.StudentT(2.5).sample(x.shape)
    model = Recurrent(nn.LSTM(1, 16, batch_first=True), 1, every=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    def loss() -> Tensor:
        t = x[pick(len(x))]
        return F.huber_loss(model(t[:, :-1]), t[:, 1:])

    fit(case, model, optimizer, loss, learns=0.9)


@healthy(kind="RNN", source="the adding problem (Hochreiter & Schmidhuber 1997): flat for long, then it falls")
def memory_task_of_a_gru(case: Case) -> None:
    x, y = marked(length=12)
    model = Recurrent(nn.GRU(3, 24, batch_first=True), 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    fit(case, model, optimizer, on_batches(model, x, y, size=64))
