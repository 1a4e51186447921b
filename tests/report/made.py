"""Runs with known values, written with the store's own functions; no model and no server needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from report import made_trust

from nncift_core.records import Example
from nncift_core.store.dataset_writer import store_dataset
from nncift_core.store.datasets import Dataset
from nncift_core.store.runs import Cost, attempt, publish_table
from nncift_core.store.views import rows_table
from nncift_core.store.workspace import Workspace

RUN, OTHER = "0a1b2c3d4e5f6071", "0a1b2c3d4e5f6072"
POOL, TARGET, TEST, CHOSEN = 24, 6, 5, 8
CONFIG = {
    "seed": 0,
    "pool": {"source": "pool.jsonl", "columns": None},
    "influence": {"function": "delift", "delift": {"template_with": 'A "{prompt}"\n'}},
    "finetune": None,
    "evaluation": {"seeds": 3},
}


def examples(n: int, kind: str) -> list[Example]:
    """Rows of three sources and two tasks, with digits in their texts."""
    tasks = {"pool": ("sums", "names"), "target": ("sums", "names"), "test": ("sums",)}[kind]
    return [
        Example(
            f"{kind} prompt {k}",
            f"{kind} response {k * k}",
            k,
            source=f"src {k % 3}",
            task=tasks[k % len(tasks)],
        )
        for k in range(n)
    ]


@dataclass
class Made:
    """A run to render."""

    ws: Workspace
    run_id: str
    sets: dict[str, Dataset]


class Maker:
    """Writes runs into one workspace."""

    def __init__(self, folder: Path) -> None:
        self.ws = Workspace.create(folder / "my ws")

    def make(
        self,
        run_id: str = RUN,
        *,
        evaluated: bool = True,
        exact: bool = False,
        seeds: int = 3,
        facts: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        rows: dict[str, list[Example]] | None = None,
        dataset: str = "mine",
        shift: int = 0,
        idle: int = 1,
        ranked: bool = True,
        verdict: str | None = None,
        design: str = "block",
        audit_pairs: int = 100,
        pointwise: bool = False,
    ) -> Made:
        """A finished run. evaluated: models were compared; exact: nothing was estimated; shift: how many
        rows later the picks start; idle: picks without gain; ranked: predictors have
        rank agreements. verdict: of the gate; without one, a result as it was before there was a gate, of
        the estimator `mlp`. design: of the labels; audit_pairs: how many measured; pointwise: no pairs."""
        given = rows or {}
        sizes = {"pool": POOL, "target": TARGET, "test": TEST}
        sets = {
            role: Dataset(
                self.ws,
                store_dataset(
                    self.ws, given.get(role) or examples(n, role),
                    dataset=dataset, role=role, block_rows=100, fingerprint="f",
                ),
            )
            for role, n in sizes.items()
        }  # fmt: skip
        made = Made(self.ws, run_id, sets)
        origin = "baseline" if verdict == "refused" else "estimated"
        tables = {**_values(made, shift, idle, origin), **_quality(made, exact, ranked)}
        known: dict[str, Any] = {"kind": "pointwise" if pointwise else "pairwise"}
        if verdict:
            ids = [sets[role].example_ids.tolist() for role in ("pool", "target")]
            views = made_trust.views(verdict, design, ids[0], [] if pointwise else ids[1], audit_pairs)
            for view, found in views.items():
                tables |= _publish(made, view, found)
            known |= made_trust.facts(verdict, design, audit_pairs)
        if evaluated:
            tables |= _evaluated(made, seeds)
        with attempt(self.ws, run_id, config or CONFIG, {"torch": "2.13.0", "git": "abc"}) as current:
            for n, stage in enumerate(("ingest", "exact-influence", "select")):
                current.cost(Cost(stage, "cpu", 100 + n, 90, 10 + n, 1.25 + n, 300.5))
            current.publish_result(
                {
                    "run_id": run_id,
                    "datasets": [
                        {**d.ref.model_dump(mode="json"), "blocks": [self.ws.relative(b) for b in d.blocks]}
                        for d in sets.values()
                    ],
                    "matrix": _matrix(made, exact, verdict, design, pointwise),
                    "tables": tables,
                    "facts": {
                        "rule": "flmi", "budget": CHOSEN, "positive_gain": CHOSEN - idle, "tied_steps": 2,
                        "subset": f"runs/{run_id}/subset.jsonl", **known, **(facts or {}),
                    },
                }
            )  # fmt: skip
        return made


def _influence(made: Made) -> Any:
    return np.random.default_rng(7).normal(0.001, 0.01, (POOL, TARGET)).astype(np.float32)


def _matrix(made: Made, exact: bool, verdict: str | None, design: str, pointwise: bool) -> dict[str, Any]:
    """A labelled corner of half the rows and columns, or every third pair; the rest estimated, unless all is
    exact. Pointwise: no pairs at all."""
    pool, target = made.sets["pool"], made.sets["target"]
    values, ws = _influence(made), made.ws
    folder = ws.run_dir(made.run_id) / "made"
    folder.mkdir(parents=True, exist_ok=True)
    corner = np.zeros(values.shape, bool)
    if design == "scattered":
        corner.ravel()[::3] = True
    else:
        corner[: POOL // 2, : TARGET if design == "all-targets" else TARGET // 2] = True
    paths = {}
    for name, mask in (("exact", corner | exact), ("estimates", np.full_like(corner, not exact))):
        r, c = np.nonzero(mask)
        table = {
            "row_content": pool.content_ids[r],
            "column_content": target.content_ids[c],
            "value": values[r, c],
        }
        path = folder / f"{name}.parquet"
        pq.write_table(pa.table(table), path)
        paths[name] = [ws.relative(path)] if mask.any() else []
    sides = [("row", pool, POOL // 2), ("column", target, TARGET if design == "all-targets" else TARGET // 2)]
    if pointwise:
        paths, sides = {"exact": [], "estimates": []}, sides[:1]
    members = pa.concat_tables(
        [
            pa.table(
                {
                    "side": [side] * len(d.example_ids),
                    "example_id": d.example_ids,
                    "content_id": d.content_ids,
                    "labelled": [exact or k < half for k in range(len(d.example_ids))],
                    "candidate": [True] * len(d.example_ids),
                }
            )
            for side, d, half in sides
        ]
    )
    pq.write_table(members, folder / "members.parquet")
    used = {"trusted": "kernel", "weak": "kernel", "refused": "means", None: "mlp"}[verdict]
    known = {"design": design, "learned": verdict != "refused", "half_width": 0.0125} if verdict else {}
    return {
        "function": "delift", "predictor": None if exact else used, **paths, **known,
        "members": ws.relative(folder / "members.parquet"),
    }  # fmt: skip


def _publish(
    made: Made, view: str, rows: list[dict[str, Any]], missing: tuple[str, ...] = ()
) -> dict[str, str]:
    """missing: columns that the view has got since the run was made."""
    none = dict.fromkeys(missing)
    full = [{"run_id": made.run_id, **r, **none} for r in rows]
    table = rows_table(view, full).drop_columns(list(missing))
    path = publish_table(made.ws, made.run_id, view, "0" * 16, table, producer="test", parents=())
    return {view: path}


def _values(made: Made, shift: int, idle: int, origin: str) -> dict[str, str]:
    ids, values = made.sets["pool"].example_ids.tolist(), _influence(made)
    scores = [
        {
            "function": "delift", "task": task, "variant": "mean", "seed": 0, "origin": origin,
            "train_id": i, "score": float(s),
        }
        for task, part in (("sums", values[:, ::2]), ("names", values[:, 1::2]))
        for i, s in zip(ids, part.mean(axis=1), strict=True)
    ]  # fmt: skip
    picks = [
        {
            "rank": k + 1,
            "train_id": ids[k + shift],
            "gain": max(CHOSEN - idle - k, 0) / 3,
            "score": 0.1 / (k + 1),
        }
        for k in range(CHOSEN)
    ]
    return _publish(made, "scores", scores) | _publish(made, "selection", picks)


def _quality(made: Made, exact: bool, ranked: bool) -> dict[str, str]:
    verdicts = {"Q1": "fit on labels", "Q2": "beats every baseline", "Q4": "below a constant (R2 <= 0)"}
    rows = [
        {
            "function": "delift", "quadrant": q, "target_task": "all", "role": role, "predictor": p,
            "n_pairs": 60, "mse": 0.1, "r2": 1 / 3, "pearson": 0.5,
            "spearman": 0.4 if ranked and p != "constant" else None,
            "spearman_per_target": None, "recall_at_k": 0.25, "lower": None if p == "constant" else 0.2,
            "upper": None if p == "constant" else 0.6, "verdict": verdict if role == "estimator" else "",
        }
        for q, verdict in verdicts.items()
        for role, p in (("estimator", "mlp"), ("baseline", "constant"), ("baseline", "embedding cosine"))
    ]  # fmt: skip
    return _publish(made, "estimator_quality", [] if exact else rows, missing=("spearman_centred",))


LOSS = {"base": 2.0, "selected": 1.4, "random": 1.5, "random-tokens": 1.48}


def _evaluated(made: Made, n_seeds: int) -> dict[str, str]:
    """Losses and ROUGE of every subset, seed and held-out row, and the selected subset against the rest."""
    totals, rows, rivals = [], [], []
    shared = {"function": "delift", "model": "builtin", "task": "all"}
    for subset, loss in LOSS.items():
        for seed in [None] if subset == "base" else range(n_seeds):
            mode = {"subset": subset, "seed": seed, "mode": "base" if seed is None else "finetune"}
            for metric, value in (("loss", loss), ("rouge1", 0.9 - loss / 3), ("rougeL", 0.8 - loss / 3)):
                value += 0.01 * (seed or 0)
                totals.append(
                    {
                        **shared, **mode, "metric": metric, "value": value, "lower": value - 0.1,
                        "upper": value + 0.1, "fraction": 0.1, "n_train": 0 if seed is None else CHOSEN,
                        "n_tokens": 0 if seed is None else 345, "n_rows": TEST,
                    }
                )  # fmt: skip
                for k, target in enumerate(made.sets["test"].example_ids.tolist()):
                    ahead = 0.1 * (k - 2) if subset == "selected" else 0.0
                    answer = f"{subset} answer {k} seed {seed}" if metric == "rouge1" else None
                    rows.append(
                        {
                            **mode, "model": "builtin", "task": "sums", "metric": metric, "target_id": target,
                            "value": value + ahead, "generated": answer,
                        }
                    )  # fmt: skip
    for rival in ("base", "random", "random-tokens"):
        for metric, gain in (("loss", LOSS[rival] - LOSS["selected"]), ("rouge1", -0.02)):
            verdict = "better" if gain > 0 else "worse"
            rivals.append(
                {
                    **shared, "subset": "selected", "against": rival, "mode": "finetune", "metric": metric,
                    "value": 1.4, "against_value": 1.4 + gain, "gain": gain, "lower": gain - 0.01,
                    "upper": gain + 0.01, "n_seeds": n_seeds, "n_rows": TEST,
                    "verdict": verdict if n_seeds > 1 else "one seed: no verdict",
                }
            )  # fmt: skip
    return (
        _publish(made, "evaluation", totals)
        | _publish(made, "evaluation_rows", rows)
        | _publish(made, "comparison", rivals)
    )
