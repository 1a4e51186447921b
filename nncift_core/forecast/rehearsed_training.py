"""The rehearsal after selection: a student is fine-tuned on a few rows, and scores a few held-out ones."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import cast

import numpy as np
import numpy.typing as npt

from nncift_core.config import Config
from nncift_core.devices import pick
from nncift_core.encoders import load_encoder
from nncift_core.finetune import fine_tune_key, settings
from nncift_core.forecast.measuring import bytes_below, evenly, seconds_of_call, slope
from nncift_core.forecast.rates import Rate
from nncift_core.forecast.setting import Setting, clock
from nncift_core.forecast.work import trials_in
from nncift_core.pipeline.downstream import Cell, train_cell
from nncift_core.pipeline.evaluate import Mode, Trial, evaluate_trial, needs_encoder
from nncift_core.pipeline.inputs import store_input
from nncift_core.pipeline.problem import Problem
from nncift_core.store.datasets import Dataset

Int64 = npt.NDArray[np.int64]

# What a training imports beside the model libraries.
_LIBRARIES = ("peft", "nncift_core.finetune.loop")
_STEPS = 3
_FEW, _MORE = 8, 32


class TrainingRehearsal:
    """A training of one step and one of a few, then their scores on a few held-out rows and on more."""

    def __init__(self, setting: Setting) -> None:
        self.s = setting
        self.config = _short(setting.config)
        self.problem = replace(setting.problem, config=self.config)
        self.own = settings(self.config)
        self.device = pick(self.own.device, setting.device, "finetune.device")

    def run(self) -> None:
        """Both stages."""
        cells = (
            self._train() if self.s.work["fine-tune"].items else (self._cell(_FEW, 0), self._cell(_FEW, 1))
        )
        if self.s.work["evaluate"].items:
            self._evaluate(cells)

    def _train(self) -> tuple[Cell, Cell]:
        problem, work = self.problem, self.s.work["fine-tune"]
        pool = len(problem.pool.content_ids)
        step = min(pool, self.own.batch_size)
        most = max(step, min(self.s.config.selection.budget(pool), _STEPS * step))
        # Seconds of imports, which a worker process pays once.
        once = seconds_of_call(lambda: [import_module(name) for name in _LIBRARIES])
        few, more = self._cell(step, 0), self._cell(most, 1)
        before = bytes_below(problem.ws.root)
        first, second = self._time(few), self._time(more)
        a, b = self._amount(few), self._amount(more)
        per, each = slope((a, first), (b, second)) if b > a else (second / b, 0.0)
        self.s.rates["fine-tune"] = Rate(
            per=per,
            once=once,
            each=each,
            of=(bytes_below(problem.ws.root) - before) / 2,
            peak_mb=self.s.peak(),
        )
        self.s.say(f"fine-tune: {self.s.rates['fine-tune'].time(work):.1f} s for {work.repeats} models")
        return few, more

    def _cell(self, rows: int, seed: int) -> Cell:
        """A model of some pool rows of every length; seeds apart from those of a job."""
        problem = self.problem
        letters = self._letters(problem)
        order = np.argsort(letters, kind="stable")
        index = np.sort(order[evenly(len(order), rows)])
        hashes = [f"{c:016x}" for c in problem.pool.content_ids[index].tolist()]
        return Cell("rehearsal", seed, index, fine_tune_key(problem.config, hashes, seed))

    def _letters(self, problem: Problem) -> npt.NDArray[np.float64]:
        distinct, back = np.unique(problem.pool.content_ids, return_inverse=True)
        texts = problem.pool.texts(distinct)
        lengths = [len(p) + len(r) for p, r in zip(texts.prompts, texts.responses, strict=True)]
        return np.array(lengths, np.float64)[back]

    def _amount(self, cell: Cell) -> float:
        return float(self._letters(self.problem)[cell.rows].sum()) * self.own.epochs

    def _time(self, cell: Cell) -> float:
        start = clock()
        train_cell(self.problem, cell, self.device, self.problem.pool.ref.path)
        return clock() - start

    def _evaluate(self, cells: tuple[Cell, Cell]) -> None:
        """Every mode of the job, each counting for as many models as are asked in it."""
        work = self.s.work["evaluate"]
        counts = trials_in(self.s.config)
        counts["icl" if not counts["finetune"] else "finetune"] += counts.pop("base")
        found = {mode: self._mode(mode, cells) for mode, n in counts.items() if n}
        total = sum(counts.values())

        def mean(part: str) -> float:
            return sum(float(getattr(rate, part)) * counts[mode] for mode, rate in found.items()) / total

        parts = {name: mean(name) for name in ("per", "once", "each", "size", "of")}
        self.s.rates["evaluate"] = Rate(**parts, peak_mb=self.s.peak())
        self.s.say(f"evaluate: {self.s.rates['evaluate'].time(work):.1f} s for {work.repeats} models")

    def _mode(self, mode: str, cells: tuple[Cell, Cell]) -> Rate:
        root, once = self.problem.ws.root, 0.0
        seconds, sizes, letters, rows = [], [], [], []
        encoder = None
        for cell, n in zip(cells, (_FEW, _MORE), strict=True):
            problem, trial = self._asked(n), Trial(cell, cast(Mode, mode))
            if encoder is None and needs_encoder(self.config, trial):
                section, start = self.config.encoder, clock()
                device = pick(section.device, self.s.device, "encoder.device")
                encoder = load_encoder(section, device, self.config.base_dir)
                once = clock() - start
            asked = _asked_letters(problem)
            before, start = bytes_below(root), clock()
            evaluate_trial(problem, trial, self.device, encoder)
            seconds.append(clock() - start)
            sizes.append(float(bytes_below(root) - before))
            letters.append(sum(asked))
            rows.append(float(len(asked)))
        per, each = slope((letters[0], seconds[0]), (letters[1], seconds[1]))
        size, of = slope((rows[0], sizes[0]), (rows[1], sizes[1]))
        return Rate(per=per, once=once, each=each, size=size / len(self.s.config.evaluation.metrics), of=of)

    def _asked(self, rows: int) -> Problem:
        """The problem with fewer held-out rows, of every length."""
        problem = self.problem
        examples = [(i, e) for i in self.s.inputs if i.role == "test" for e in i.examples]
        order = sorted(
            range(len(examples)), key=lambda k: len(examples[k][1].prompt + examples[k][1].response)
        )
        kept = {order[k] for k in evenly(len(order), rows).tolist()}
        sets = [d for d in problem.datasets if d.ref.role != "test"]
        for number, i in enumerate(x for x in self.s.inputs if x.role == "test"):
            part = tuple(e for k, (of, e) in enumerate(examples) if of is i and k in kept)
            if part:
                small = replace(i, examples=part, name=f"{i.name}-{number}-{rows}")
                ref = store_input(problem.ws, small, self.s.config.shards.rows)
                sets.append(Dataset(problem.ws, ref))
        return replace(problem, datasets=tuple(sets))


def _short(config: Config) -> Config:
    """`config` with one pass over the rows, on this host alone, and without a judge, whose time is not this
    machine's."""
    alone = {"hosts": 1, "rendezvous": None}
    trained = settings(config).model_copy(update={"epochs": 1, "tokens": None, **alone})
    metrics = [m for m in config.evaluation.metrics if m != "judge"] or ["rouge"]
    evaluation = config.evaluation.model_copy(update={"metrics": metrics})
    return config.model_copy(update={"finetune": trained, "evaluation": evaluation})


def _asked_letters(problem: Problem) -> list[float]:
    """Characters of every distinct held-out text."""
    found = []
    for d in problem.of_role("test"):
        texts = d.texts(d.contents)
        found += [float(len(p) + len(r)) for p, r in zip(texts.prompts, texts.responses, strict=True)]
    return found
