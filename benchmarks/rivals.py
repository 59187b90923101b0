"""Other tools, measured as weighbridge is: each as its own documentation says to use it, at every step."""

from __future__ import annotations

import importlib.metadata
import logging
import os
from pathlib import Path
from typing import Any

import torch
from workloads import Training


class Idle:
    """The parts of a tool that most leave empty."""

    name = ""
    needs: tuple[str, ...] = ()  # packages, by the name under which they are installed

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, training: Training) -> None: ...
    def resume(self) -> None: ...
    def after_step(self, loss: torch.Tensor) -> None: ...
    def end_of_block(self) -> None: ...
    def pause(self) -> None: ...
    def finish(self) -> None: ...

    @classmethod
    def missing(cls) -> list[str]:
        return [package for package in cls.needs if not _has(package)]


def _has(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


class WandbWatch(Idle):
    """wandb.watch(log="all", log_freq=1), offline. Its helper process works on the same core, also while raw runs."""

    name, needs = "wandb_watch_1", ("wandb",)

    def begin(self, training: Training) -> None:
        os.environ |= {"WANDB_MODE": "offline", "WANDB_DIR": str(self.folder), "WANDB_SILENT": "true", "WANDB_CONSOLE": "off"}
        import wandb

        self.wandb: Any = wandb
        self.run = wandb.init(project="measured", dir=str(self.folder))
        self.run.watch(training.model, log="all", log_freq=1)

    def after_step(self, loss: torch.Tensor) -> None:
        self.run.log({"loss": loss.item()})

    def finish(self) -> None:
        self.run.finish()


class TensorBoardHistograms(Idle):
    """SummaryWriter.add_histogram of every parameter and every gradient."""

    name, needs = "tensorboard_hist", ("tensorboard",)

    def begin(self, training: Training) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.named = list(training.model.named_parameters())
        self.writer: Any = SummaryWriter(str(self.folder))
        self.step = 0

    def after_step(self, loss: torch.Tensor) -> None:
        self.writer.add_scalar("loss", loss.item(), self.step)
        for name, parameter in self.named:
            self.writer.add_histogram(name, parameter, self.step)
            self.writer.add_histogram(f"{name}.grad", parameter.grad, self.step)
        self.step += 1

    def end_of_block(self) -> None:
        self.writer.flush()

    def finish(self) -> None:
        self.writer.close()


class Torchmortem(Idle):
    """Autopsy with its default sampling; keeps its signals in memory."""

    name, needs = "torchmortem", ("torchmortem",)

    def begin(self, training: Training) -> None:
        from torchmortem import Autopsy

        logging.getLogger("torchmortem").setLevel(logging.ERROR)
        self.autopsy: Any = Autopsy(training.model, optimizer=training.optimizer)
        self.autopsy.attach()

    def after_step(self, loss: torch.Tensor) -> None:
        self.autopsy.step(loss=loss.item())


class TorchAudit(Idle):
    """autopatch at every step; keeps its findings in memory."""

    name, needs = "torch_audit", ("torch-audit",)
    after_step = None  # type: ignore[assignment]  # it patches model and optimizer

    def begin(self, training: Training) -> None:
        from torch_audit import autopatch

        self.auditor: Any = autopatch(training.model, optimizer=training.optimizer, every_n_steps=1, reporters=[])

    def finish(self) -> None:
        self.auditor.unpatch()


RIVALS = {one.name: one for one in (WandbWatch, TensorBoardHistograms, Torchmortem, TorchAudit)}
