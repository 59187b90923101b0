"""What a run holds beside the rows of its tensors: values of small tensors, units, successive gradients, steps, logged numbers.

These tables are read whole and kept; the rows are not (record.py).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weighbridge.errors import NothingRecorded, nearest
from weighbridge.records import QUANTITIES
from weighbridge.store import extras, persteps
from weighbridge.store.coherence import Gradients
from weighbridge.store.described import Described
from weighbridge.store.values import decode_values, kept_at, kept_of
from weighbridge.store.views import BiasShare, Coherence, Detail, Group, NoiseScale, NonFinite, Series, Units, read_only


class SmallTables(Described):
    """The part of a RunRecord that answers from them."""

    # ---- values of small tensors ----

    def value_steps(self, tensor: str, quantity: str) -> np.ndarray:
        """The steps at which the values themselves were kept."""
        return np.unique(self._values_of(tensor, quantity).column("step").to_numpy())

    def values(self, tensor: str, quantity: str, step: int | None = None) -> tuple[int, np.ndarray]:
        """The tensor's own numbers at the last recorded step <= `step` (None = the last). Raises NothingRecorded."""
        found = kept_at(self._values_of(tensor, quantity), step, self.tensor(tensor).shape)
        if found is None:
            raise NothingRecorded(
                f"The values of {quantity} of {tensor} were not recorded at or before step {step} of {self.path}. "
                "Values are kept of small tensors only; the statistics are there for all: weighbridge show --tensor"
            )
        return found

    def values_over(self, tensor: str, quantity: str, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Steps and the tensor's own numbers [steps, elements], float64; at most so many steps, evenly among those kept."""
        kept, shape = self._values_of(tensor, quantity), self.tensor(tensor).shape
        steps, rows = np.unique(kept.column("step").to_numpy(), return_index=True)
        chosen = np.unique(np.linspace(0, len(steps) - 1, min(most, len(steps))).round().astype(np.int64))
        data, dtype = kept.column("data"), kept.column("dtype")
        numbers = [decode_values(data[int(i)].as_py(), dtype[int(i)].as_py(), shape) for i in rows[chosen]]
        is_alike = [one.shape == shape for one in numbers]  # it may have had another shape before it was replaced
        chosen, numbers = chosen[is_alike], [one.ravel() for one, alike in zip(numbers, is_alike, strict=True) if alike]
        answer = steps[chosen], np.array(numbers, dtype=np.float64).reshape(len(chosen), int(np.prod(shape, dtype=np.int64)))
        read_only(*answer)
        return answer

    def _values_of(self, tensor: str, quantity: str) -> pa.Table:
        return kept_of(self._all.whole("values"), self.tensor(tensor).id, QUANTITIES[quantity])

    # ---- what modules give ----

    def units(self, output: str) -> list[Units]:
        """Each unit of an output, one record per row of the plan's schedule, in order of steps."""
        return extras.units_of(self._all.whole("units"), self.tensor(output).id)

    def last_units(self) -> dict[int, Units]:
        """The last of these of every output, by its id."""
        return extras.last_units(self._all.whole("units"))

    def units_seen(self, step: int) -> dict[int, Units]:
        """By output the last of these at or before a step, of rows that count one step only."""
        table = self._all.whole("units")
        is_seen = pc.and_(pc.less_equal(table.column("step"), step), pc.equal(table.column("steps"), 1))
        return extras.last_units(table.filter(is_seen))

    def first_nonfinite(self) -> NonFinite | None:
        """Where NaN or infinity was first in what modules give; None = nowhere."""
        return extras.first_nonfinite(self._all.whole("calls"), {t.id: t.name for t in self.outputs})

    def bias_share(self, tensor: str) -> BiasShare:
        """What a bias adds beside W.x, at the steps at which it was weighed."""
        return extras.bias_share(self._all.whole("biases"), self.tensor(tensor).id)

    def optimizer_groups(self) -> list[Group]:
        """Every optimizer's parameter groups; a group whose settings or tensors changed stands there again."""
        return extras.optimizer_groups(self.events(), {t.id: t.name for t in self._all.tensors()})

    # ---- successive gradients ----

    def coherence(self, tensor: str | None = None, start: int | None = None, stop: int | None = None) -> Coherence:
        """How alike successive gradients were at the steps of the plan: of one tensor, or of all of them together."""
        return self.gradients.coherence(None if tensor is None else self.tensor(tensor).id, start, stop)

    def noise_scales(self, tensor: str | None = None, start: int | None = None, stop: int | None = None) -> list[NoiseScale]:
        """The gradient noise scale over these steps, of one tensor or of all together: from successive steps, and from
        backward passes that add up (right where those are micro-batches of one loss)."""
        return self.gradients.noise_scales(None if tensor is None else self.tensor(tensor).id, start, stop)

    @property
    def gradients(self) -> Gradients:
        """The same by the tensors' ids."""
        return self._all.gradients()

    # ---- per step ----

    def steps_table(self, start: int | None = None, stop: int | None = None) -> pa.Table:
        """The table of steps, start <= step < stop, in order of steps."""
        return persteps.between(self._all.whole("steps"), start, stop)

    def losses(self, buckets: int | None = None) -> Series:
        """The loss of each step; with `buckets`, the lowest and highest of each range of steps only."""
        return persteps.losses(self.steps_table(), buckets)

    def epochs(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps and the epoch at each of them, where one is known."""
        return persteps.epochs(self.steps_table())

    def log_keys(self) -> list[str]:
        """Everything the user logged, by name."""
        return sorted(set(self._all.whole("logs").column("key").to_pylist()))

    def logged(self, key: str) -> Series:
        """What was logged under one name. Raises NothingRecorded."""
        found = persteps.logged(self._all.whole("logs"), key)
        if found is None:
            raise NothingRecorded(f"Nothing was logged as {key!r} in {self.path}.{nearest(key, self.log_keys())}")
        return found

    @property
    def detail(self) -> Detail | None:
        """What `Plan(budget=...)` has left out since its last change; None where everything of the plan is recorded."""
        return extras.last_detail(self.events())

    def own_cost(self) -> tuple[float, float]:
        """Seconds of ours on the training thread, and seconds on the wall, from the end of the first step to the last."""
        return persteps.own_cost(self._all.whole("steps"))
