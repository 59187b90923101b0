"""Weighbridge as it is measured: what it records in each variant, and where its writer runs."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from rivals import Idle
from workloads import Training

_NO_OUTPUTS = {"activations": False, "activation_gradients": False, "units": False}


class Weighbridge(Idle):
    """The default plan, stored. Its hooks see every optimizer of the process, so they go while the raw copy runs.

    Without rules beside the training: what they add is the difference to the variant `live`.
    """

    name = "weighbridge"
    title = "default plan"
    plan: ClassVar[dict[str, Any]] = {}
    live: ClassVar[Any] = False
    after_step = None  # type: ignore[assignment]  # nothing is needed in the loop

    def begin(self, training: Training) -> None:
        import weighbridge
        from weighbridge.capture import hooks

        self.hooks = hooks
        plan = weighbridge.Plan(**self.plan)
        self.run = weighbridge.init(dir=self.folder, name="measured", plan=plan, quiet=True)
        weighbridge.watch(training.model, run=self.run, live=self.live)
        self.pause()

    def resume(self) -> None:
        self.hooks.listen(self.run._stepper)

    def end_of_block(self) -> None:
        self.run.flush()

    def pause(self) -> None:
        self.hooks.forget(self.run._stepper)

    def finish(self) -> None:
        self.run.finish()


class Parameters(Weighbridge):
    """Parameters, gradients and updates at every step, and nothing else."""

    name, title = "parameters", "parameters alone, every step"
    plan: ClassVar = {**_NO_OUTPUTS, "moments": False, "coherence": False, "sentinel": False}


class Outputs(Weighbridge):
    """The default plan, and activations and dL/dh at every step."""

    name, title = "outputs", "all, with activations and dL/dh, every step"
    plan: ClassVar = {"activations": True, "activation_gradients": True}


class NoSentinel(Weighbridge):
    """The default plan without the sentinel: the difference to the default plan is what the sentinel costs."""

    name, title = "no_sentinel", "default plan without sentinel"
    plan: ClassVar = {"sentinel": False}


class TwoCores(Weighbridge):
    """The default plan; the threads of weighbridge may use every core that the machine lends us, the training only its own."""

    name, title = "two_cores", "default plan, a second core free"

    def begin(self, training: Training) -> None:
        own = os.sched_getaffinity(0)
        allowed = {int(core) for core in os.environ.get("WEIGHBRIDGE_CORES", "").split(",") if core}
        os.sched_setaffinity(0, allowed | own)  # threads inherit it
        super().begin(training)
        os.sched_setaffinity(0, own)

    @classmethod
    def missing(cls) -> list[str]:
        return [] if len(os.sched_getaffinity(0)) > 1 else ["a second core"]


class Live(Weighbridge):
    """The default plan, and rules that read along: what `weighbridge.watch(model)` does where nothing else is asked for."""

    name, title = "live", "default plan, with rules beside the training"
    live: ClassVar = "silent"


VARIANTS = {one.name: one for one in (Weighbridge, Live, Parameters, Outputs, NoSentinel, TwoCores)}
