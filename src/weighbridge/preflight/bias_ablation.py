"""`weighbridge.ablate_bias`: the same network trained with and without its biases, seed by seed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

import torch
from rich.console import Console
from rich.progress import track

from weighbridge.capture.hooks import unheard
from weighbridge.diagnosis.redundant import redundant_biases
from weighbridge.errors import BadInput, nearest
from weighbridge.preflight.again import MakeModel, model_maker, optimizer_maker
from weighbridge.preflight.bias_slots import Slot, left_out, slots
from weighbridge.preflight.bias_worth import Worth, of_bias, worth
from weighbridge.preflight.calling import loss_of
from weighbridge.preflight.copying import detached, same_random_state
from weighbridge.preflight.losses import as_list, held_out
from weighbridge.preflight.signal import try_out

HTML_WIDTH: Final = 110  # letters, in a notebook


@dataclass(frozen=True, slots=True, repr=False)
class BiasAblation:
    """Scores with and without the biases, paired by seed. `print` it; `record()` and `to_json()` are for programs."""

    model: str
    biases: tuple[str, ...]  # that were left out
    redundant: tuple[str, ...]  # of them: proved to change nothing
    seeds: tuple[int, ...]
    with_biases: tuple[float, ...]  # score of each seed
    without: tuple[float, ...]
    parameters: tuple[int, int]  # trainable ones, with and without
    score_name: str
    is_loss: bool  # lower is better
    worth: Worth | None  # what leaving them out costs; positive: worse without. None where no pair is finite

    @property
    def depends_on_seed(self) -> bool:
        """False where every seed gave the same, which makes of all seeds one training."""
        return len(self.seeds) < 2 or any(len(set(scores)) > 1 for scores in (self.with_biases, self.without))

    @property
    def verdict(self) -> str:
        """needed, no effect, better without, redundant, or cannot tell from this much data."""
        if self.biases and set(self.biases) <= set(self.redundant):
            return "redundant"
        return of_bias(self.worth if self.depends_on_seed else None)

    def record(self) -> dict[str, Any]:
        """As a dictionary."""
        facts = {name: getattr(self, name) for name in ("model", "biases", "redundant", "seeds", "with_biases", "without")}
        told = {"score": self.score_name, "is_loss": self.is_loss, "verdict": self.verdict}
        return {**facts, "parameters": self.parameters, **told, "worth": self.worth and self.worth.record()}

    def to_json(self) -> str:
        """`record` as JSON; NaN and infinity as words."""
        from weighbridge.diagnosis.kept import jsonable

        return json.dumps(jsonable(self.record()), ensure_ascii=False, allow_nan=False, indent=1)

    def __str__(self) -> str:
        from weighbridge.preflight.bias_text import ablation_lines
        from weighbridge.preflight.text import screen_width

        return "\n".join(line.plain for line in ablation_lines(self, screen_width()))

    def __repr__(self) -> str:
        return f"<BiasAblation of {self.model}: {self.verdict}, {len(self.seeds)} seeds>"

    def _repr_html_(self) -> str:
        from weighbridge.preflight.bias_text import ablation_lines
        from weighbridge.report.html import lines_of

        return lines_of(ablation_lines(self, HTML_WIDTH))


def ablate_bias(
    make_model: Any,
    train_and_score: Callable[[torch.nn.Module], Any] | None = None,
    *,
    batches: Any = None,
    loss_fn: Any = None,
    optimizer: Any = None,
    epochs: int = 50,
    held_out: Any = None,
    seeds: int | Sequence[int] = 5,
    layers: str | Sequence[str] | None = None,
    is_loss: bool = False,
    resolution: float = 0.0,
) -> BiasAblation:
    """Train a network with and without biases, over several seeds, and report the difference with its interval.

    make_model       a function that returns a new model; or a model, copies of which are initialised anew as torch's modules do
    train_and_score  train_and_score(model) trains it and returns a number, better when higher unless `is_loss`. Or instead:
    batches          trained on in each epoch, each as for `inspect`: a DataLoader, a list, or one batch
    loss_fn          as for `inspect`
    optimizer        a function of the parameters, `lambda p: torch.optim.SGD(p, lr=0.1)`; or an optimizer to make others like
    held_out         batches whose mean loss in evaluation mode is the score; without them it is that of `batches`
    seeds            how many (0, 1, 2, ...), or the seeds themselves
    layers           names of layers, with * and ?; by default every bias that is no norm's shift
    resolution       the step in which the score moves: an accuracy over 38 samples moves by 1/38

    Each seed makes the model twice, from the same random state: without biases it has the same initial weights, and sees the
    same batches in the same order. A bias is taken out after the model is made; where a module cannot do without, it is held at
    zero. The interval is Student's t over the paired differences: it speaks of other seeds, not of other data.
    The caller's random state stays as it is. Raises BadInput before anything is trained.

    >>> import torch
    >>> x = torch.linspace(0, 6, 60)[:, None]
    >>> sgd = lambda parameters: torch.optim.SGD(parameters, lr=1.0)
    >>> loss = torch.nn.functional.binary_cross_entropy_with_logits
    >>> make = lambda: torch.nn.Linear(1, 1)
    >>> ablate_bias(make, batches=(x, (x > 3).float()), loss_fn=loss, optimizer=sgd, seeds=3).verdict
    'needed'
    """
    make, names = model_maker(make_model), _seeds(seeds)
    if train_and_score is None:
        task = _Task(batches, loss_fn, optimizer_maker(optimizer), epochs, held_out)
        train_and_score, is_loss = task.run, True
        name = "loss" if held_out is None else "held-out loss"
    else:
        task, name = None, "loss" if is_loss else "score"
    with torch.inference_mode(False), torch.enable_grad():
        model = _made(make, names[0], ())
        chosen = tuple(slot.name for slot in _chosen(model, layers))
        redundant = () if task is None else task.redundant(model, chosen)
        scores = [[_score(make, seed, gone, train_and_score) for gone in ((), chosen)] for seed in _shown(names)]
        fewer = _trainable(_made(make, names[0], chosen))
    pairs = torch.tensor(scores, dtype=torch.float64)
    found = _worth(pairs if is_loss else -pairs, resolution)
    with_biases, without = (tuple(column.tolist()) for column in pairs.T)
    sizes = (_trainable(model), fewer)
    return BiasAblation(type(model).__name__, chosen, redundant, names, with_biases, without, sizes, name, is_loss, found)


@dataclass(frozen=True, slots=True)
class _Task:
    """A plain training on batches, and its score."""

    batches: Any
    loss_fn: Any
    make_optimizer: Any
    epochs: int
    held_out: Any

    def __post_init__(self) -> None:
        if self.batches is None:
            raise BadInput("There is nothing to train on; expected train_and_score(model), or batches, loss_fn and optimizer.")
        if iter(_each(self.batches, self.loss_fn)) is self.batches:
            raise BadInput("The batches can be gone through once only; expected a list or a DataLoader.")

    def run(self, model: torch.nn.Module) -> float:
        loss_fn = copy.deepcopy(self.loss_fn) if isinstance(self.loss_fn, torch.nn.Module) else self.loss_fn
        optimizer = self.make_optimizer([p for p in model.parameters() if p.requires_grad])
        model.train()
        with unheard():
            for _ in range(self.epochs):
                for batch in _each(self.batches, loss_fn):
                    self._step(model, optimizer, detached(batch), loss_fn)
        scored = self.batches if self.held_out is None else self.held_out
        return float(held_out(model.eval(), scored, loss_fn).all(model).mean())

    def _step(self, model: torch.nn.Module, optimizer: Any, batch: Any, loss_fn: Any) -> None:
        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, batch, loss_fn)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # all of torch's take one; L-BFGS calls it several times

    def redundant(self, model: torch.nn.Module, names: Iterable[str]) -> tuple[str, ...]:
        with same_random_state():
            batch = next(iter(_each(self.batches, self.loss_fn)))
        trial = try_out(model, batch, self.loss_fn)
        proved = {one.parameter.name for one in redundant_biases(trial.first.graph, trial.first.parameters)}
        return tuple(name for name in names if name in proved)


def _each(batches: Any, loss_fn: Any) -> Iterable[Any]:
    return as_list(batches, loss_fn)


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    found = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not found or len(set(found)) != len(found):
        raise BadInput(f"seeds={seeds}: give at least one seed, each once.")
    return found


def _made(make: MakeModel, seed: int, gone: Sequence[str]) -> torch.nn.Module:
    """The model of a seed, without these biases."""
    with same_random_state(seed):
        model = make()
    if not isinstance(model, torch.nn.Module):
        raise BadInput(f"make_model() returns a {type(model).__name__}; expected a torch.nn.Module.")
    for slot in slots(model):
        if slot.name in gone:
            left_out(slot)
    return model


def _chosen(model: torch.nn.Module, layers: str | Sequence[str] | None) -> Iterator[Slot]:
    """The biases of the layers that were asked for."""
    there = [slot for slot in slots(model) if slot.parameter is not None]
    if not there:
        raise BadInput("The model has no bias to leave out.")
    if layers is None:
        found = [slot for slot in there if slot.role == "bias"]
        if not found:
            raise BadInput("The model has no bias but norms' shifts; name the layers: layers='*'.")
        return iter(found)
    patterns = [layers] if isinstance(layers, str) else list(layers)
    for pattern in patterns:
        if not any(fnmatchcase(slot.layer, pattern) for slot in there):
            known = [slot.layer for slot in there]
            raise BadInput(f"No layer with a bias is called {pattern}.{nearest(pattern, known)} There are: {', '.join(known)}.")
    return (slot for slot in there if any(fnmatchcase(slot.layer, pattern) for pattern in patterns))


def _score(make: MakeModel, seed: int, gone: Sequence[str], train_and_score: Callable[[torch.nn.Module], Any]) -> float:
    model = _made(make, seed, gone)
    with same_random_state(seed):
        score = train_and_score(model)
    try:
        return float(score)
    except (TypeError, ValueError) as error:
        raise BadInput(f"train_and_score(model) returns a {type(score).__name__}; expected one number.") from error


def _worth(losses: torch.Tensor, resolution: float) -> Worth | None:
    """Of losses [seeds, 2], with and without; pairs in which one is not finite are left out."""
    finite = losses[losses.isfinite().all(1)]
    return worth(finite[:, 0], finite[:, 1], "seed", resolution) if len(finite) else None


def _shown(seeds: Sequence[int]) -> Iterable[int]:
    """The seeds, with a bar on stderr where that is a terminal."""
    console = Console(stderr=True)
    return track(seeds, "seeds", console=console, transient=True, disable=not console.is_terminal)


def _trainable(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
