"""The rehearsal up to exact values: state, embeddings, features, exact pairs, forward-pass features."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from nncift_core.devices import pick
from nncift_core.encoders import example_text, load_encoder, prefix_of
from nncift_core.forecast.made_up import fill, made_up, timed_vectors, units_of
from nncift_core.forecast.measuring import evenly, seconds_of_call, slope, time_parts
from nncift_core.forecast.setting import Setting, clock
from nncift_core.forward_features import ForwardFeatures
from nncift_core.influence.contract import InfluenceFunction, Rows, Side
from nncift_core.influence.registry import create
from nncift_core.language_models import load_language_model
from nncift_core.pipeline import embed as embedding
from nncift_core.pipeline import estimator_features as forward
from nncift_core.pipeline import features as featuring
from nncift_core.pipeline.exact import ExactPlan, compute_exact, plan_exact
from nncift_core.pipeline.exact_shards import ExactShard
from nncift_core.pipeline.problem import Problem, prompt_template
from nncift_core.pipeline.state import fit_state, needs_state, plan_state

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

_EMBED_GROUP, _FORWARD_GROUP, _STATE_ROWS = 128, 64, 32
_FEW, _MORE = 4, 48
_COLUMNS = 12


class ExactRehearsal:
    """In the order of a run, so that what is loaded for the first time is paid by the same stage."""

    def __init__(self, setting: Setting) -> None:
        self.s = setting
        self.function: InfluenceFunction = create(setting.config, *setting.devices)

    @property
    def problem(self) -> Problem:
        """The matrix."""
        return self.s.problem

    def run(self) -> ExactPlan:
        """All of it; returns the plan of exact values, which are all there afterwards."""
        if needs_state(self.s.config):
            self._prepare()
        if self.s.work["embed"].items:
            self._embed()
        self.s.mark()
        plan = plan_exact(self.problem)
        if self.s.work["features"].items:
            self._features(plan)
        self._exact(plan)
        del self.function
        if self.s.work["estimator-features"].items:
            self._forward()
        return plan_exact(self.problem)

    def _prepare(self) -> None:
        """The function's state on all its rows, or on some that stand for them."""
        self.s.mark()
        state = plan_state(self.problem)
        rows = np.sort(state.rows)
        sample = rows[evenly(len(rows), _STATE_ROWS)]
        seen: list[tuple[float, int, int]] = []
        start = clock()
        fit_state(
            self.problem,
            self.function,
            replace(state, rows=sample),
            lambda done, total: seen.append((clock() - start, done, total)),
        )
        taken = clock() - start
        steps = [x for x in seen if x[1]]
        per_step = 0.0
        if len(steps) > 1 and steps[-1][1] > steps[0][1]:
            per_step = (steps[-1][0] - steps[0][0]) / (steps[-1][1] - steps[0][1])
        total = per_step * steps[-1][2] if steps else taken
        letters = _letters(self.problem.texts(rows)).sum() / max(
            1.0, _letters(self.problem.texts(sample)).sum()
        )
        self.s.found("prepare-function", total * letters, once=max(0.0, taken - total))
        self.s.with_state(state.key)
        self.function.load_state(self.problem.ws.state_dir(state.key))

    def _embed(self) -> None:
        """Vectors of examples, and of responses where they are read."""
        self.s.mark()
        section = self.s.config.encoder
        start = clock()
        device = pick(section.device, self.s.device, "encoder.device")
        encoder = load_encoder(section, device, self.s.config.base_dir)
        encoder.embed(["a first text", "and a second one"])
        once = clock() - start
        shards, _ = embedding.plan_embed(self.problem)
        total = 0.0
        for shard in shards:
            ids = np.array(shard.content_ids, np.int64)
            rows, whole = self.problem.texts(ids), shard.part == "example"
            texts = [
                example_text(p, r) if whole else r for p, r in zip(rows.prompts, rows.responses, strict=True)
            ]
            prefix = prefix_of(section, shard.side)
            store = (self.problem.vectors if whole else self.problem.response_vectors)(shard.side)

            def vectors(at: Int64, texts: list[str] = texts, prefix: str = prefix) -> Float32:
                return encoder.embed([texts[k] for k in at], None, prefix)

            lengths = np.array([len(t) for t in texts], np.float64)
            share = self.s.budget / 6 * len(ids) / self.s.work["embed"].items
            timed = timed_vectors(store, ids, lengths, vectors, _EMBED_GROUP, embedding.PIECE, share)
            total += timed.per * timed.given
        self.s.found("embed", total, once)

    def _features(self, plan: ExactPlan) -> None:
        """The function's features: a price of each piece, and one of each row."""
        shards, _ = featuring.plan_features(self.problem, plan)
        needs = self.function.needs - {"features"}
        total, once, each = 0.0, 0.0, 0.0
        for side in dict.fromkeys(s.side for s in shards):
            ids = np.concatenate([np.array(s.content_ids, np.int64) for s in shards if s.side == side])
            texts = self.problem.texts(ids, needs, side)
            lengths = _letters(texts)
            order = np.argsort(lengths, kind="stable")
            few = order[evenly(len(ids), _FEW)]

            def timed(part: Int64, texts: Rows = texts, side: Side = side) -> float:
                return seconds_of_call(lambda: self.function.features(texts.take(part), side))

            first, small = timed(few), timed(few)
            affordable = int(self.s.budget / 8 / max(small / len(few), 1e-9))
            more = order[evenly(len(ids), min(max(affordable, 3 * _FEW), _MORE))]
            start = clock()
            found = self.function.features(texts.take(more), side)
            large = clock() - start
            per, flat = slope((float(lengths[few].sum()), small), (float(lengths[more].sum()), large))
            total, each = total + per * float(lengths.sum()), max(each, flat)
            once += max(0.0, first - small)
            store = self.problem.features(side)
            for piece in range(0, len(ids), featuring.PIECE):
                part = ids[piece : piece + featuring.PIECE]
                store.write(part, made_up(found, len(part), piece))
        self.s.found("features", total, once, each)

    def _exact(self, plan: ExactPlan) -> None:
        """Exact pairs, chunk by chunk as a run computes them."""
        self.s.mark()
        work, cost = self.s.work["exact-influence"], self.function.cost
        costly = self.problem.config.pointwise or cost.per_pair > 0
        wanted = [s for s in plan.shards if s.missing]
        units = [u for s in wanted for u in units_of(s)] if costly else wanted
        amounts = [self._amount(u) if costly else float(u.pairs) for u in units]
        once, each = self._warm(plan) if costly else (0.0, 0.0)
        known: set[int] = set(self._columns(plan).tolist()) if each else set()

        def compute(part: int) -> float:
            new = set(units[part].columns) - known
            known.update(new)
            taken = seconds_of_call(lambda: compute_exact(self.problem, self.function, units[part]))
            return max(0.0, taken - each * len(new)) if each else taken

        timed = time_parts(amounts, compute, self.s.budget / 4)
        fill(self.problem, wanted)
        self.s.found("exact-influence", timed.per * timed.given, once, each if work.repeats else 0.0)

    def _columns(self, plan: ExactPlan) -> Int64:
        """Columns by which the price of a new one is told."""
        columns = np.unique(np.concatenate([np.array(s.columns, np.int64) for s in plan.shards]))
        return columns[evenly(len(columns), _COLUMNS)]

    def _warm(self, plan: ExactPlan) -> tuple[float, float]:
        """Seconds until the first pair is there beyond what pairs take, and of a column that is new."""
        rows = np.unique(np.concatenate([np.array(s.rows, np.int64) for s in plan.shards]))
        rows = rows[evenly(len(rows), 3)]
        rows = np.resize(rows, 3)
        needs, one = self.function.needs, np.array([0])
        pool = self.problem.texts(rows, needs, "row")
        if self.problem.config.pointwise:
            first, again = (seconds_of_call(lambda: self.function.values(pool.take(one))) for _ in range(2))
            return max(0.0, first - again), 0.0
        columns = self._columns(plan)
        targets = self.problem.texts(columns, needs, "column")
        first = seconds_of_call(lambda: self.function.tile(pool.take(one), targets.take(one)))
        new = seconds_of_call(lambda: self.function.tile(pool.take(one + 1), targets))
        old = seconds_of_call(lambda: self.function.tile(pool.take(one + 1), targets))
        # The first column is known by now.
        each = max(0.0, new - old) / max(1, len(columns) - 1) if self.function.cost.per_column else 0.0
        return max(0.0, first - old / len(columns)), each

    def _amount(self, unit: ExactShard) -> float:
        """Characters that the pairs of a unit read: a row's once, a column's with every pair."""
        rows = np.array(unit.rows, np.int64)
        once = rows if unit.layout == "tile" else rows[np.append(True, rows[1:] != rows[:-1])]
        letters = float(_letters(self.problem.texts(once)).sum())
        if self.problem.config.pointwise:
            return letters
        columns = np.array(unit.columns, np.int64)
        times = len(rows) if unit.layout == "tile" else 1
        return letters + times * float(_letters(self.problem.texts(columns)).sum())

    def _forward(self) -> None:
        """Forward-pass features of the influence model."""
        self.s.mark()
        config = self.s.config
        section = config.language_model
        start = clock()
        device = pick(section.device, self.s.device, "language_model.device")
        model = load_language_model(section, device, config.base_dir, self.s.devices)
        template, field = prompt_template(config)
        made = ForwardFeatures(model, template, section.batch_tokens, field=field)
        shards, total = forward.plan_estimator_features(self.problem)
        ids = np.concatenate([np.array(s.content_ids, np.int64) for s in shards])
        texts = self.problem.texts(ids)
        made.compute(texts.prompts[:1], texts.responses[:1], None)
        once = clock() - start

        def vectors(at: Int64) -> Float32:
            part = texts.take(at)
            return made.compute(part.prompts, part.responses, None)

        store, budget = self.problem.forward_store, self.s.budget / 8
        timed = timed_vectors(store, ids, _letters(texts), vectors, _FORWARD_GROUP, forward.PIECE, budget)
        self.s.found("estimator-features", timed.per * timed.given, once)


def _letters(rows: Rows) -> Float64:
    """Characters of each text [n]."""
    return np.array([len(p) + len(r) for p, r in zip(rows.prompts, rows.responses, strict=True)], np.float64)
