"""Healthy: recurrent networks, convolutions, transformers over sequences."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from clinic.frame import Case, healthy
from clinic.fresh._plain import chain, descend, fell


class CausalBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.pad = 2 * dilation
        self.conv = parametrizations.weight_norm(nn.Conv1d(inputs, outputs, 3, dilation=dilation))
        self.match = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(F.dropout(F.relu(self.conv(F.pad(x, (self.pad, 0)))), 0.1, self.training) + self.match(x))


@healthy(kind="TCN", source="Bai et al. 2018, locuslab/TCN: the adding problem with weight norm and dilation")
def adding_problem(case: Case) -> None:
    x = torch.rand(400, 2, 24)
    x[:, 1] = 0
    for half in (0, 12):
        x[torch.arange(400), 1, half + torch.randint(0, 12, (400,))] = 1
    y = (x[:, 0] * x[:, 1]).sum(1)
    net = nn.ModuleDict(
        {"tcn": nn.Sequential(*[CausalBlock(2 if i == 0 else 12, 12, 2**i) for i in range(3)]), "out": nn.Linear(12, 1)}
    )
    opt = torch.optim.Adam(net.parameters(), lr=4e-3)
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 400, (32,))
            loss = F.mse_loss(net["out"](net["tcn"](x[rows])[..., -1])[:, 0], y[rows])
            opt.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses, 0.5))


class LanguageModel(nn.Module):
    """pytorch/examples word_language_model: tied, its state carried from one piece of text to the next."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.drop, self.encoder, self.rnn = nn.Dropout(0.2), nn.Embedding(words, width), nn.LSTM(width, width)
        self.decoder = nn.Linear(width, words)
        self.decoder.weight = self.encoder.weight
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        out, state = self.rnn(self.drop(self.encoder(t)), state)
        return self.decoder(self.drop(out)), state


@healthy(
    kind="LSTM",
    source="pytorch/examples word_language_model: truncated backpropagation, plain SGD with a rate of 20 and clipping at 0.25",
)
def rate_of_twenty(case: Case) -> None:
    text = chain(8, 20 * 31, 20).T
    net = LanguageModel(20, 24)
    opt = torch.optim.SGD(net.parameters(), lr=20.0)
    losses = []
    with case.watch(net):
        state = None
        for step in range(case.steps):
            piece = text[(step % 30) * 20 : (step % 30) * 20 + 21]
            if state is not None:
                state = tuple(s.detach() for s in state)
            out, state = net(piece[:-1], state)
            loss = F.cross_entropy(out.flatten(0, 1), piece[1:].flatten())
            opt.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.25)
            opt.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses, 0.85))


class Translator(nn.Module):
    def __init__(self, words: int = 14, width: int = 24) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width, padding_idx=0), nn.Embedding(16, width)
        self.body = nn.Transformer(width, 2, 1, 1, 48, 0.1, batch_first=True)
        self.out = nn.Linear(width, words)

    def embed(self, t: Tensor) -> Tensor:
        return self.words(t) * math.sqrt(24) + self.places(torch.arange(t.shape[1]))

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        later = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)
        hide = source == 0
        h = self.body(
            self.embed(source), self.embed(target), tgt_mask=later, src_key_padding_mask=hide, memory_key_padding_mask=hide
        )
        return self.out(h)


@healthy(
    kind="seq2seq Transformer",
    source="the annotated Transformer: reversing sequences of different lengths, padding masked, Noam's schedule, post-norm",
)
def reversing_with_noam(case: Case) -> None:
    lengths = torch.randint(4, 9, (400,))
    source = torch.randint(2, 14, (400, 8)).masked_fill(torch.arange(8) >= lengths[:, None], 0)
    target = torch.cat([torch.ones(400, 1, dtype=torch.long), source.flip(1)], 1)
    net = Translator()
    opt = torch.optim.Adam(net.parameters(), lr=1.0, betas=(0.9, 0.98), eps=1e-9)
    noam = torch.optim.lr_scheduler.LambdaLR(opt, lambda s: 0.4 * 24**-0.5 * min((s + 1) ** -0.5, (s + 1) * 100**-1.5))
    losses = []
    with case.watch(net):
        for _ in range(case.steps):
            rows = torch.randint(0, 400, (24,))
            out = net(source[rows], target[rows, :-1])
            loss = F.cross_entropy(out.flatten(0, 1), target[rows, 1:].flatten(), ignore_index=0, label_smoothing=0.1)
            opt.zero_grad()
            loss.backward()
            opt.step()
            noam.step()
            losses.append(loss.item())
    case.proof(lambda: fell(losses, 0.93))


@healthy(
    kind="Llama (transformers)",
    source="Hugging Face course: Llama from a config, cosine with warm-up, accumulation of two, clipping at one",
    steps=300,
)
def llama_from_a_config(case: Case) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM, get_cosine_schedule_with_warmup

    text = chain(200, 12, 24)
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=24,
            hidden_size=24,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )
    opt = torch.optim.AdamW(llama.parameters(), lr=3e-3, weight_decay=0.1)
    schedule = get_cosine_schedule_with_warmup(opt, 30, case.steps)
    losses = []
    with case.watch(llama):
        for _ in range(case.steps):
            for _micro in range(2):
                t = text[torch.randint(0, 200, (12,))]
                loss = llama(input_ids=t, labels=t).loss / 2
                loss.backward()
            nn.utils.clip_grad_norm_(llama.parameters(), 1.0)
            opt.step()
            schedule.step()
            opt.zero_grad()
            losses.append(2 * loss.item())
    case.proof(lambda: fell(losses, 0.7))


@healthy(
    kind="BERT (transformers)",
    source="Devlin et al. 2019, masked language modelling: 85 % of the labels are -100, pooler and next-sentence unused",
    steps=300,
)
def masked_words(case: Case) -> None:
    from transformers import BertConfig, BertForMaskedLM

    text = (torch.randint(0, 20, (300, 1)) + torch.arange(10)) % 20 + 2
    bert = BertForMaskedLM(
        BertConfig(
            vocab_size=22,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=48,
            max_position_embeddings=16,
        )
    )
    bert.train()
    opt = torch.optim.AdamW(bert.parameters(), lr=3e-3)
    losses = []
    with case.watch(bert):
        for _ in range(case.steps):
            t = text[torch.randint(0, 300, (24,))].clone()
            chosen = torch.rand(t.shape) < 0.2
            chosen[0, 0] = True
            labels = t.masked_fill(~chosen, -100)
            loss = bert(input_ids=t.masked_fill(chosen, 1), labels=labels).loss
            losses.append(descend(opt, loss))
    case.proof(lambda: fell(losses, 0.8))


@healthy(
    kind="T5 (transformers)",
    source="Raffel et al. 2020, T5 from a config with Adafactor: attention that is not scaled, no biases anywhere",
    steps=300,
)
def text_to_text(case: Case) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    source = torch.randint(2, 18, (300, 6))
    t5 = T5ForConditionalGeneration(
        T5Config(
            vocab_size=18, d_model=24, d_kv=8, d_ff=48, num_layers=1, num_heads=3, decoder_start_token_id=0, dropout_rate=0.0
        )
    )
    t5.train()
    opt = torch.optim.Adafactor(t5.parameters(), lr=0.05)
    losses = []
    with case.watch(t5):
        for _ in range(case.steps):
            t = source[torch.randint(0, 300, (24,))]
            loss = t5(input_ids=t, labels=t).loss
            losses.append(descend(opt, loss))
    case.proof(lambda: fell(losses, 0.9))
