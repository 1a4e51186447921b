"""The state of an influence function: one-time work on a sample of the pool, kept while that changes little.

LESS trains its warm-up adapters here, BM25 counts words. What a function computes depends on its state,
so the state's identity (function and sampled contents) is part of the key of everything computed with it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from nncift_core.config import Config
from nncift_core.hashing import digest, hash_rank
from nncift_core.influence.contract import InfluenceFunction
from nncift_core.influence.registry import Stateful, implementation
from nncift_core.pipeline.problem import Keys, Problem
from nncift_core.store.designs import StoredDesign, find, find_or_make, note_design
from nncift_core.store.folders import LIST, files_of, is_whole, publish_folder
from nncift_core.store.workspace import Workspace

Int64 = npt.NDArray[np.int64]

# A state belongs to the pool, whatever the target: the columns of its design are this one.
_NO_COLUMNS = np.zeros(1, np.int64)


@dataclass(frozen=True)
class State:
    """Which rows [k] a state is fitted on, under which key, whether it is stored; kept: from another pool;
    design: path of the draw."""

    key: str
    rows: Int64
    ready: bool
    kept: bool = False
    design: str = ""


def needs_state(config: Config) -> bool:
    """Whether the configured function has a state."""
    return "state" in implementation(config).needs


def expected_state(ws: Workspace, config: Config, keys: Keys, pool: Int64) -> str | None:
    """Key of the state that a run over `pool` (content ids) would use; None without one. Reads only."""
    if not needs_state(config):
        return None
    design = find(ws, _family(config, keys), pool, _NO_COLUMNS, _growth(config))
    drawn = design.label_rows if design else _draw(config, pool)
    return _settle(ws, config, keys, drawn, pool).key


def plan_state(problem: Problem) -> State:
    """Draw (or keep) the sample of the pool's contents, and see whether the state is there."""
    ws, config, keys = problem.ws, problem.config, problem.keys

    def draw(rows: Int64, columns: Int64) -> tuple[Int64, Int64]:
        return _draw(config, rows), columns

    pool = problem.pool.contents
    parents = (problem.pool.ref.path,)
    growth = _growth(config)
    design: StoredDesign = find_or_make(ws, _family(config, keys), pool, _NO_COLUMNS, growth, draw, parents)
    found = _settle(ws, config, keys, design.label_rows, pool)
    return replace(found, kept=found.ready and design.ref.reused, design=design.ref.path)


def keep_state(ws: Workspace, config: Config, keys: Keys, before: Int64, pool: Int64) -> None:
    """Let runs over `pool` (content ids) use the costly state that runs over the pool `before` use, whatever
    share of it came or went: everything computed with it stays."""
    if not needs_state(config) or not cast(Stateful, implementation(config)).state_is_costly:
        return
    family = _family(config, keys)
    design = find(ws, family, before, _NO_COLUMNS, _growth(config))
    if design is not None:
        note_design(ws, family, pool, _NO_COLUMNS, design.ref.key)


def fit_state(
    problem: Problem,
    function: InfluenceFunction,
    state: State,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Fit the state and store it, unless somebody has meanwhile; returns the relative paths of its files.

    One at a time: another device's checkpoints differ by rounding, and a state must not be a mixture. Whoever
    waits says so, as progress of none: it does not hang.
    """
    ws = problem.ws
    lock = ws.turn(f"state-{state.key[:16]}", lambda: progress(0, 1) if progress else None)
    with lock, tempfile.TemporaryDirectory(dir=ws.tmp_dir) as scratch:
        if is_whole(ws.state_dir(state.key)):
            return files_of(ws, ws.state_dir(state.key))
        function.fit_state(problem.texts(np.sort(state.rows)), Path(scratch), progress)
        return publish_folder(
            ws,
            Path(scratch),
            ws.state_dir(state.key),
            kind="function-state",
            key=state.key,
            rows=len(state.rows),
            producer="prepare-function",
            parents=(problem.pool.ref.path, *([state.design] if state.design else [])),
        )


def state_list(problem: Problem) -> tuple[str, ...]:
    """Path of the list of the state's files, as a parent of what was computed with them; none without one."""
    state = problem.keys.state
    return (problem.ws.relative(problem.ws.state_dir(state) / LIST),) if state else ()


def _settle(ws: Workspace, config: Config, keys: Keys, drawn: Int64, pool: Int64) -> State:
    """The state fitted on the `drawn` rows; not stored, and some of them gone: on a sample drawn anew."""
    rows = drawn
    if not is_whole(ws.state_dir(_key(keys, drawn))) and not np.isin(drawn, pool).all():
        rows = _draw(config, pool)
    return State(_key(keys, rows), rows, ready=is_whole(ws.state_dir(_key(keys, rows))))


def _key(keys: Keys, rows: Int64) -> str:
    return digest([keys.function, np.sort(rows).tolist()])


def _growth(config: Config) -> float:
    """By which share the pool may change before the state is fitted anew."""
    costly = cast(Stateful, implementation(config)).state_is_costly
    return config.estimator.refit_growth if costly else 0.0


def facts_of_state(ws: Workspace, state: State) -> dict[str, Any]:
    """What a person should know of a state: rows, and of a training its steps, its first and last loss and
    how many rows it cut."""
    facts: dict[str, Any] = {"state_rows": len(state.rows)}
    file = ws.state_dir(state.key) / "state.json"
    if not file.is_file():
        return facts
    found = json.loads(file.read_text(encoding="utf-8"))
    if "steps" in found:
        facts["state_steps"] = found["steps"]
    if found.get("truncated_examples"):
        facts["truncated_warm_up_rows"] = found["truncated_examples"]
    losses = found.get("losses") or []
    if losses:
        facts |= {"state_first_loss": losses[0], "state_last_loss": losses[-1]}
    return facts


def _draw(config: Config, pool: Int64) -> Int64:
    """The rows of smallest hash rank: a draw that appended rows hardly change."""
    count = cast(Stateful, implementation(config)).state_rows(config, len(pool))
    ranked: Int64 = pool[np.argsort(hash_rank(pool, config.seed, "state"), kind="stable")]
    return ranked[:count]


def _family(config: Config, keys: Keys) -> str:
    return digest(["state", keys.function, config.seed])
