"""Unit costs of stages, and what they say of a job's work.

    seconds = once + each * repeats + per * amount / slots,
    bytes   = flat + of * repeats + size * items.

`amount` is what a stage's time grows with (characters of text, pairs, labels), `repeats` what has a price of
its own whatever its size (models that are trained, pieces of features), `items` what its files grow with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

# Stages in the order of a run; those of the first tuple compute in worker processes.
ON_DEVICE = (
    "prepare-function",
    "embed",
    "features",
    "exact-influence",
    "estimator-features",
    "fine-tune",
    "evaluate",
)
AFTER_SELECTION = ("fine-tune", "evaluate")


@dataclass(frozen=True)
class Work:
    """What a stage has to do: items as its costs count them; amount, repeats: see above."""

    items: int
    amount: float
    repeats: int = 0

    def share(self, left: int) -> Work:
        """The work of `left` of the items."""
        if left >= self.items:
            return self
        part = left / self.items if self.items else 0.0
        return Work(left, self.amount * part, round(self.repeats * part) if left else 0)


@dataclass(frozen=True)
class Rate:
    """Unit costs of a stage, and what they were measured on.

    once, each, per in seconds; flat, of, size in bytes; peak_mb: memory of the process at the stage's end;
    measured: the amount that was timed, of `given` that a run would have had; seconds: that it took.
    """

    per: float
    once: float = 0.0
    each: float = 0.0
    size: float = 0.0
    flat: float = 0.0
    of: float = 0.0
    peak_mb: float = 0.0
    measured: float = 0.0
    given: float = 0.0
    seconds: float = 0.0

    def time(self, work: Work, slots: int = 1) -> float:
        """Seconds of `work`; nothing for no items."""
        if not work.items:
            return 0.0
        return self.once + (self.each * work.repeats + self.per * work.amount) / slots

    def disk(self, work: Work) -> float:
        """Bytes that `work` leaves behind."""
        return self.flat + self.of * work.repeats + self.size * work.items if work.items else 0.0


@dataclass(frozen=True)
class Rates:
    """A calibration: unit costs by stage.

    start: seconds of a worker process until it could load a model; again: of one that starts after selection,
    whose imports the measuring process had behind it; fixed: seconds of a run beside its stages, by what they
    go to; spent: seconds that measuring took.
    """

    made_at: str
    stages: Mapping[str, Rate]
    start: float = 0.0
    again: float = 0.0
    fixed: Mapping[str, float] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    spent: float = 0.0

    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "stages": {name: asdict(rate) for name, rate in self.stages.items()}}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Rates:
        """Of a `record`; raises KeyError or TypeError for what is none."""
        stages = {name: Rate(**rate) for name, rate in record["stages"].items()}
        names = ("made_at", "start", "again", "fixed", "machine", "spent")
        return cls(stages=stages, **{name: record[name] for name in names})


def seconds_of(rates: Rates, work: Mapping[str, Work], slots: int) -> dict[str, float]:
    """Seconds by stage of `work`, `slots` devices sharing what devices do, and a last stage "orchestration".

    Worker processes start with the first stage that needs one, and again after selection. Raises KeyError
    for a stage with work but no rate.
    """
    found = {
        name: rates.stages[name].time(w, slots if name in ON_DEVICE else 1)
        for name, w in work.items()
        if w.items
    }
    for names, start in (
        ([n for n in ON_DEVICE if n not in AFTER_SELECTION], rates.start),
        (list(AFTER_SELECTION), rates.again),
    ):
        first = next((n for n in names if n in found), None)
        if first is not None:
            found[first] += start
    if found:
        tasks = sum(_task_runs(name, w) for name, w in work.items() if w.items)
        more = rates.fixed.get("compare", 0.0) if "evaluate" in found else 0.0
        found["orchestration"] = rates.fixed.get("run", 0.0) + rates.fixed.get("task", 0.0) * tasks + more
    return found


def _task_runs(name: str, work: Work) -> int:
    """Task runs of a stage, about: one for each shard, at most a hundred."""
    size = {"embed": 1024, "features": 1024, "estimator-features": 1024, "exact-influence": 4096}.get(name)
    shards = work.repeats or 1 if size is None else -(-work.items // size)
    return min(100, shards)


def missing_rates(rates: Rates | None, work: Mapping[str, Work]) -> Sequence[str]:
    """Stages with work that `rates` says nothing of."""
    known = rates.stages if rates is not None else {}
    return [name for name, w in work.items() if w.items and name not in known]
