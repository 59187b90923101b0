"""A training that is played: stopped, stepped and changed by hand, recorded like any run, its twin beside it.

`Player` does what it is told on the thread of its process; `frame` is what there is to see now, as the page takes it.
"""

from __future__ import annotations

import base64
import itertools
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

import weighbridge
from weighbridge.capture.live import wished
from weighbridge.diagnosis import registry
from weighbridge.errors import BadInput, WeighbridgeError
from weighbridge.teaching import answers, link, networks, twin
from weighbridge.teaching.again import recorded_again
from weighbridge.teaching.answer import run_name
from weighbridge.teaching.script import script
from weighbridge.teaching.training import Loop

MOST_STEPS: Final = 20_000  # of one training: what it records is then a few tens of megabytes
MOST_LINES: Final = 64  # values of a tensor that are drawn as lines
TRACE_ROWS: Final = 400  # steps that lines have; beyond it every second one goes
DIAGNOSE_GROWN_BY: Final = 0.25
BEYOND_FINITE: Final = 20  # steps after a loss that is not finite; then it stops by itself


class Player:
    """One training and its twin. Raises BadInput where the link cannot be understood."""

    def __init__(self, query: str, scratch: Path) -> None:
        self.wish = link.read(query)
        self.loops = [Loop(one.data, one.variant, one.seed) for one in (self.wish, self.wish.twin) if one is not None]
        self.loop = self.loops[0]
        drawn = sum(min(units, answers.MOST_UNITS) for units in self.wish.sizes[1:])
        self.views = [answers.view_of(loop.parts, drawn) for loop in self.loops]
        self.observers = [answers.Observer(loop) for loop in self.loops]
        self.guess = answers.guessing(self.wish.data, self.loop.parts, self.wish.variant.options.loss_for(self.wish.data))
        self.trace = Trace(self.loops)
        name = run_name(self.wish.data, self.wish.variant, self.wish.seed, alone=True)
        self.run = weighbridge.init(dir=scratch, name=name, config=self.loop.config(), quiet=True)
        self.run.watch(self.loop.model, self.loop.optimizer, wishes=wished(live=False))  # diagnosed here, as far as it has come
        self.kept: Path | None = None
        self.kept_twin: Path | None = None
        self.diagnosed = -1  # steps at the last look of the rules

    # ---- what it is told ---------------------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        return len(self.loop.training.step_losses)

    @property
    def ended(self) -> str:
        """Why it goes no further; empty where it can."""
        lost = self.loop.training.diverged_at
        if self.kept is not None:
            return "This run is kept and closed. Reset begins it anew."
        if self.steps >= MOST_STEPS:
            return f"{MOST_STEPS:,} steps are as far as this page goes. The command line goes further."
        if lost is not None and self.steps > lost + BEYOND_FINITE:
            return f"Stopped: the loss is not finite since step {lost:,}."
        return ""

    def step(self) -> None:
        """One step of the network and of its twin."""
        epoch = [loop.step() for loop in self.loops]
        if epoch[0]:
            done = self.loop.training
            self.run.log({self.loop.data.score_name: done.scores[-1], "epoch loss": done.losses[-1]})
        self.trace.add()

    def set(self, word: str, value: Any) -> None:
        """A slider: holds from the next step on, for the twin too where that is not what it differs in."""
        reader = link.read(f"{word}={value}&data={self.wish.data.name}").variant.options  # refuses what a link would refuse
        for loop, wish in zip(self.loops, (self.wish, self.wish.twin), strict=False):
            if wish is None or wish.change[0] == word:
                continue
            if word == "lr":
                loop.rate = networks.learning_rate(reader)
            elif word == "batch":
                loop.batch = reader.batch_for(loop.rows)
            else:
                raise BadInput(f"{word} cannot be changed while it trains; lr and batch can.")

    def keep(self, folder: Path) -> str:
        """Finish the run and move it among the others, its twin beside it (`kept_twin`). Returns its name there."""
        if self.kept is not None:
            return self.kept.name
        if self.steps == 0:
            raise BadInput("Nothing has been trained yet: play first, then keep the run.")
        self.run.finish()
        self.kept = _moved(Path(self.run.path), folder)
        if self.wish.twin is not None:
            changed = "-".join(self.wish.twin.change)
            found = recorded_again(self.loops[1], Path(self.run.path).parent, f"{self.kept.name}-twin-{changed}")
            self.kept_twin = _moved(found, folder) if found is not None else None
        return self.kept.name

    def close(self) -> None:
        """End the run; its folder goes with the scratch folder."""
        if self.kept is None:
            self.run.finish()

    def code(self) -> dict[str, Any]:
        """The script and the command line of what was trained so far."""
        epochs = max(1, len(self.loop.training.losses))
        changed = "The command line trains with the settings of the start, without what the sliders changed."
        return {
            "script": script(self.loop),
            "command": link.command(self.wish, epochs),
            "note": changed if self.loop.changes else "",
            "steps": self.steps,
        }

    # ---- what there is to see ----------------------------------------------------------------------------------------

    def opened(self) -> dict[str, Any]:
        """All that does not change while it trains."""
        wish, options, loop = self.wish, self.wish.variant.options, self.loop
        view = self.views[0]
        return {
            "state": {
                **{word: str(getattr(options, option)) for word, option in link.OPTIONS.items()},
                "data": wish.data.name, "layers": list(wish.sizes[1:-1]), "bias": [int(has) for has in wish.biased],
                "start": "torch" if options.init == "default" else options.init,
                "bstart": "torch" if options.init_bias == "default" else options.init_bias,
                "lr": networks.learning_rate(options), "batch": options.batch_for(loop.rows), "seed": wish.seed,
                "twin": ":".join(wish.twin.change) if wish.twin is not None else "off",
            },
            "sizes": list(wish.sizes), "rows": loop.rows, "held_out": wish.data.held_out, "task": wish.data.task,
            "values": wish.values, "biases": wish.biases,
            "describe": wish.data.describe(), "features": list(wish.data.features),
            "loss": options.loss_for(wish.data), "guess": self.guess, "score": wish.data.score_name,
            "layers": _layers(loop.model), "shown": answers.MOST_UNITS,
            "tensors": [{"name": name, "shape": list(p.shape)} for name, p in loop.model.named_parameters()],
            "view": {"high": view.shape[0], "wide": view.shape[1], "plane": view.plane},
            "inputs": self._inputs(),
            "points": self._points() if view.plane is not None else [],
            "twin": None if wish.twin is None else {
                "lead": twin.lead(wish), "link": _link_of_twin(wish),
            },
        }  # fmt: skip

    def _inputs(self) -> str:
        """Pictures of the inputs themselves, as those of the units in a frame."""
        x = self.views[0].x[:, : answers.MOST_UNITS]
        edge = float(x.abs().max()) or 1.0
        return base64.b64encode(answers.picture(x, -edge, edge)).decode()

    def _points(self) -> list[list[float]]:
        """The rows: both inputs, the target as a place between 0 and 1, and 1 where it was kept from training."""
        parts = self.loop.parts
        low, high = answers.answer_range(self.wish.data, parts)
        found = []
        for x, y, held in [
            (parts.train_x, parts.train_y, 0),
            *([(parts.score_x, parts.score_y, 1)] if self.wish.data.held_out else []),
        ]:
            place = (y.reshape(len(x), -1)[:, 0].double() - low) / ((high - low) or 1.0)
            found += [
                [round(float(a), 4), round(float(b), 4), round(float(p), 4), held] for (a, b), p in zip(x, place, strict=True)
            ]
        return found

    def frame(self) -> dict[str, Any]:
        """What there is to see after the last step."""
        nets = [self._net(*each) for each in zip(self.loops, self.observers, self.views, strict=True)]
        said = None
        if len(nets) > 1:
            told = twin.compare(self.wish, self.loops[0], self.loops[1], self.guess, self.views[0].x)
            said = {"title": told.title, "text": told.text}
        return {
            "step": self.steps, "epoch": len(self.loop.training.losses), "ended": self.ended,
            "rate": self.loop.rate, "batch": self.loop.batch,
            "net": nets[0], "twin": {**nets[1], "said": said} if said is not None else None, "trace": self.trace.news(),
        }  # fmt: skip

    def _net(self, loop: Loop, observer: answers.Observer, view: answers.View) -> dict[str, Any]:
        outputs = observer.layers(view.x)
        edges = [answers.edge_of(layer) for layer in outputs]
        pictures = [answers.picture(o[:, : answers.MOST_UNITS], -e, e) for o, e in zip(outputs, edges, strict=True)]
        low, high = answers.answer_range(loop.data, loop.parts)
        losses, of = loop.training.step_losses, len(loop.parts.score_y)
        score = networks.score(observer.layers(loop.parts.score_x)[-1], loop.parts.score_y, loop.data.task)
        return {
            "loss": losses[-1] if losses else None,
            "score": score,
            "right": [round(score * of), of] if loop.data.task == "classification" and score == score else None,
            "values": packed(torch.cat([p.detach().reshape(-1) for p in loop.model.parameters()]).numpy()),
            "pictures": base64.b64encode(b"".join(pictures)).decode(),
            "edges": edges,
            "answer": base64.b64encode(answers.picture(answers.answer_of(outputs[-1], loop.data)[:, None], low, high)).decode(),
        }

    def diagnosis_is_due(self) -> bool:
        """Has it grown enough since the rules last looked?"""
        return self.steps > max(self.diagnosed, 0) * (1 + DIAGNOSE_GROWN_BY) and self.kept is None

    def diagnose(self) -> dict[str, Any]:
        """What the rules say of the run as far as it is written. May be called on another thread."""
        self.diagnosed = self.steps
        self.run.flush()
        try:
            told = weighbridge.diagnose(self.run.path).record()
        except WeighbridgeError as error:
            return {"error": str(error), "findings": [], "steps": 0, "looked": 0}
        titles = {rule.id: rule.title for rule in registry.rules()}
        names = ("rule", "severity", "certainty", "place", "first_step", "message", "fix", "experiment")
        found = [{**{name: finding[name] for name in names}, "title": titles[finding["rule"]]} for finding in told["findings"]]
        looked = sum(answer["outcome"] in ("found", "clear") for answer in told["rules"])
        return {"error": "", "findings": found, "steps": told["steps"], "looked": looked, "rules": len(told["rules"])}


class Trace:
    """Losses and the values of small tensors at some of the steps, thinned so that they stay few."""

    def __init__(self, loops: list[Loop]) -> None:
        self.loops = loops
        self.small = {name: p for name, p in loops[0].model.named_parameters() if p.numel() <= MOST_LINES}
        self.every = 1
        self._rows: list[tuple[int, list[float], list[np.ndarray]]] = []
        self._count = 0
        self._values = self._now()

    def _now(self) -> list[np.ndarray]:
        return [p.detach().numpy().reshape(-1).copy() for p in self.small.values()]

    def add(self) -> None:
        """After a step: its loss, and the values that made it."""
        step = len(self.loops[0].training.step_losses) - 1
        if step % self.every == 0:
            self._rows.append((step, [loop.training.step_losses[-1] for loop in self.loops], self._values))
            self._count += 1
            if self._count >= TRACE_ROWS:
                self.every, self._count = self.every * 2, (self._count + 1) // 2
                self._rows = [row for row in self._rows if row[0] % self.every == 0]
        if (step + 1) % self.every == 0:
            self._values = self._now()

    def news(self) -> dict[str, Any]:
        """What came since the last time."""
        rows, self._rows = self._rows, []
        values = {name: packed(np.array([row[2][i] for row in rows])) for i, name in enumerate(self.small)}
        return {
            "every": self.every,
            "steps": [row[0] for row in rows],
            "losses": [list(column) for column in zip(*(row[1] for row in rows), strict=True)],
            "values": values,
        }


def packed(values: np.ndarray) -> str:
    """float32 as base64, least byte first."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def _layers(model: nn.Sequential) -> list[dict[str, Any]]:
    """Each layer with weights: how it is called, and its parameters."""
    found: list[dict[str, Any]] = []
    for index, module in enumerate(model):
        kind = type(module).__name__
        if isinstance(module, nn.Linear):
            bias = f"{index}.bias" if module.bias is not None else None
            found.append({"title": f"{index} {kind}", "weight": f"{index}.weight", "bias": bias, "units": module.out_features})
        else:
            found[-1]["title"] += f", {kind}"
    return found


def _link_of_twin(wish: link.Wish) -> str:
    """The twin as the network, and this network as its twin."""
    assert wish.twin is not None
    word, value = wish.twin.change
    fallback = {
        "lr": str(networks.learning_rate(wish.variant.options)),
        "seed": str(wish.seed),
        "norm": "none",
        "bstart": "default",
    }
    back = wish.words.get(word, fallback.get(word, ""))
    return link.address({**wish.words, word: value, "twin": f"{word}:{back}"})


def _moved(run: Path, folder: Path) -> Path:
    """Among the other runs in one stroke, under a name that is free there."""
    folder.mkdir(parents=True, exist_ok=True)
    waiting = folder / f".{run.name}-{os.getpid()}-{time.monotonic_ns()}"
    shutil.move(run, waiting)
    for number in itertools.count(1):
        target = folder / (run.name if number == 1 else f"{run.name}-{number}")
        if not target.exists():
            waiting.rename(target)
            return target
    raise AssertionError


class Rules(threading.Thread):
    """Asks the rules about the player of the moment, on a thread of its own; `tell` gets each answer."""

    def __init__(self, tell: Any) -> None:
        super().__init__(name="weighbridge-lab-rules", daemon=True)
        self.tell = tell
        self._due = threading.Condition()
        self._player: Player | None = None

    def ask(self, player: Player) -> None:
        """Soon; does not wait. Only the last one asked for is looked at."""
        with self._due:
            self._player = player
            self._due.notify()

    def run(self) -> None:
        while True:
            with self._due:
                self._due.wait_for(lambda: self._player is not None)
                player, self._player = self._player, None
            assert player is not None
            try:
                self.tell(player, player.diagnose())
            except Exception as error:  # its run has just been closed or moved: the next look is at the next one
                self.tell(player, {"error": str(error), "findings": [], "steps": 0, "looked": 0})
