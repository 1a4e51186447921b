"""What the parts of a rehearsal share: the job, its thrown-away workspace, the rates found so far."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from nncift_core.config import Config
from nncift_core.errors import RunError
from nncift_core.execution.job import Job
from nncift_core.execution.memory import peak_mb
from nncift_core.execution.pool import DevicePool
from nncift_core.execution.work import Request
from nncift_core.finetune.process import child_env
from nncift_core.forecast.measuring import bytes_below, seconds_of_call
from nncift_core.forecast.rates import Rate, Work
from nncift_core.forecast.scratch import Scratch
from nncift_core.pipeline.exact_shards import ExactShard
from nncift_core.pipeline.inputs import Input
from nncift_core.pipeline.problem import Keys, Problem

# Seconds that a rehearsal cannot measure, for it starts no flow (benchmarks/overhead.py and forecast.py print
# their truth): run: a flow's begin and end and its single tasks; task: a task run and its shard's way to a
# worker; compare: intervals of a comparison; report: the page. They go with the speed of the machine, taken
# from a worker's start, which took `_START` seconds where they were measured.
FIXED = {"run": 0.6, "task": 0.023, "compare": 0.3, "report": 1.2}
_START = 1.62

_IMPORTS = """
import json, time
start = time.perf_counter()
import torch
middle = time.perf_counter()
from transformers import AutoModelForCausalLM, AutoTokenizer
print(json.dumps([middle - start, time.perf_counter() - middle]))
"""


@dataclass
class Setting:
    """The job of a rehearsal. devices: the first slot's, over which a large teacher is spread; all else takes
    the first. work: of the rows that stand in it; rates: by stage, as they are found."""

    config: Config
    keys: Keys
    stored: Scratch
    inputs: Sequence[Input]
    devices: tuple[str, ...]
    budget: float
    say: Callable[[str], None]
    work: dict[str, Work] = field(default_factory=dict)
    rates: dict[str, Rate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.problem: Problem = self.stored.problem(self.config, self.keys)
        self._bytes = 0

    @property
    def device(self) -> str:
        """The first of the devices."""
        return self.devices[0]

    def with_state(self, key: str) -> None:
        """From here on values are computed with this state."""
        self.keys = self.keys.with_state(key)
        self.problem = self.stored.problem(self.config, self.keys)

    def peak(self) -> float:
        """Peak memory of this process so far, in MB."""
        return peak_mb()

    def mark(self) -> None:
        """What lies in the workspace now is of earlier stages."""
        self._bytes = bytes_below(self.stored.ws.root)

    def written(self) -> int:
        """Bytes written since `mark`."""
        return max(0, bytes_below(self.stored.ws.root) - self._bytes)

    def found(self, stage: str, seconds: float, once: float = 0.0, each: float = 0.0) -> None:
        """Note a stage whose amount would take `seconds` in all, beside `once` and `each`; what was written
        since `mark` is its."""
        work = self.work[stage]
        self.rates[stage] = Rate(
            per=seconds / work.amount if work.amount else 0.0,
            once=once,
            each=each,
            size=self.written() / work.items if work.items else 0.0,
            peak_mb=self.peak(),
        )
        total = once + each * work.repeats + seconds
        self.say(f"{stage}: {total:.1f} s for {work.items:,} items")


@dataclass(frozen=True)
class Start:
    """Seconds of a worker process until it could load a model: of the first one of a run, and of one whose
    libraries for models were loaded by now in the rehearsal (again); speed: time that things take here, to
    where `FIXED` was measured."""

    first: float
    again: float
    speed: float


class _Silent:
    """Progress that nobody looks at."""

    def advance(self, items: int) -> None:
        """Nothing."""

    def to(self, done: int, total: int) -> None:
        """Nothing."""


def start_seconds(setting: Setting) -> Start:
    """Start a worker process and let it answer an empty shard; import the model libraries in another one.

    Nothing starts where shards run in the flow's own process.
    """
    if setting.config.execution.isolation == "thread":
        return Start(0.0, 0.0, 1.0)
    job = Job(
        workspace=setting.stored.ws.address,
        config_json=setting.config.model_dump_json(),
        base_dir=setting.config.base_dir,
        identity=setting.keys,
        datasets=setting.stored.refs,
    )
    nothing = ExactShard("nothing", "pairs", (), (), 0, 0, "label")
    pool = DevicePool(list(setting.devices), "process", len(setting.devices))
    request = Request("exact-influence", job, asdict(nothing), {})
    try:
        begun = seconds_of_call(lambda: pool.run("start", request, _Silent()))
    finally:
        pool.close()
    torch, transformers = _imports(setting.device)
    setting.say(f"a worker process starts in {begun + torch:.1f} s")
    return Start(begun + torch, begun + torch + transformers, begun / _START)


def _imports(device: str) -> tuple[float, float]:
    """Seconds of importing torch, then of what loads language models."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTS], env=child_env(device), capture_output=True, text=True
    )
    if done.returncode:
        raise RunError(f"the model libraries cannot be imported: {done.stderr.strip()[-500:]}")
    torch, transformers = json.loads(done.stdout.strip().splitlines()[-1])
    return float(torch), float(transformers)


def clock() -> float:
    """Seconds of a clock that only goes forward."""
    return time.perf_counter()
