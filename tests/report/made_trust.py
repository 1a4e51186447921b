"""What a run knows of its estimator, with known values: rows of the views and facts, without run_id."""

from __future__ import annotations

from typing import Any

import numpy as np

Rows = list[dict[str, Any]]
HEAD = {"function": "delift"}
REASONS = {
    "trusted": "ranks unseen pairs better than every cheap baseline (kernel: Spearman 0.52 (0.40 to 0.61), "
    "R2 0.31; +0.30 (+0.18 to +0.44) against embedding cosine)",
    "weak": "no clear win over the cheap baseline proxy (kernel: Spearman 0.21 (0.02 to 0.35), R2 0.02)",
    "refused": "no better than a constant on unseen pairs: R2 <= 0 (kernel: Spearman 0.02 (-0.10 to 0.15))",
}
PARTS = {
    "block": {"Q1": 60, "Q2": 20, "Q3": 20, "Q4": 60},
    "scattered": {"labels": 60, "unseen": 100},
    "all-targets": {"Q1": 60, "Q3": 100},
}
BASELINES = ("constant", "means", "embedding cosine", "bm25", "length", "proxy", "random", "response cosine")


def views(
    verdict: str, design: str, train_ids: list[int], target_ids: list[int], audit_pairs: int
) -> dict[str, Rows]:
    """Rows of every view that tells how far to trust the estimator `kernel`; no target_ids: pointwise."""
    return {
        "estimator_quality": _quality(verdict, design, audit_pairs),
        "estimator_candidates": _candidates(),
        "estimator_gains": _gains(),
        "audit": _audit(train_ids, target_ids, audit_pairs),
        "refinement": [
            {"round": n, "exact_pairs": 12, "entered": 3 - n, "left_subset": 3 - n, "jaccard": 0.6 + 0.2 * n}
            for n in (1, 2)
        ],
    }


def facts(verdict: str, design: str, audit_pairs: int) -> dict[str, Any]:
    """What the run says of its estimator and labels."""
    return {
        "estimator": "kernel", "estimator_used": "means" if verdict == "refused" else "kernel",
        "estimator_verdict": verdict, "estimator_reason": REASONS[verdict],
        "estimator_choice": "kernel ranks held-out rows best (0.412), before ridge (0.377)",
        "audit_measuring_pairs": audit_pairs, "interval_half_width": 0.0125, "label_design": design,
        "label_pairs": 60, "label_cost": 123456.0, "label_cost_unit": "tokens", "refined_pairs": 24,
    }  # fmt: skip


def _quality(verdict: str, design: str, audit_pairs: int) -> Rows:
    parts = {**PARTS[design], "all": audit_pairs}
    rows = []
    for place, (part, pairs) in enumerate(parts.items()):
        for n, predictor in enumerate(("kernel", *BASELINES)):
            own, ranked = predictor == "kernel", predictor != "constant"
            role = "estimator" if own else "baseline"
            told = f"{verdict}: {REASONS[verdict]}" if part == "all" else "beats every baseline"
            told = "fit on labels" if part in ("Q1", "labels") else told
            told = "no better than embedding cosine" if part == "Q3" and design == "block" else told
            rank = 0.5 - 0.05 * n - 0.02 * place if ranked else None
            rows.append(
                {
                    **HEAD, "quadrant": part, "target_task": "all", "role": role,
                    "predictor": predictor, "n_pairs": pairs, "mse": 0.1, "r2": 1 / 3 - 0.1 * n,
                    "pearson": rank, "spearman": rank, "spearman_per_target": 0.2 if ranked else None,
                    "recall_at_k": 0.25, "lower": rank and rank - 0.1, "upper": rank and rank + 0.1,
                    "verdict": told if own else "", "spearman_centred": 0.3 if ranked else None,
                }
            )  # fmt: skip
    by_task = [
        {**r, "target_task": task, "verdict": "beats every baseline"}
        for r in rows
        if r["role"] == "estimator" and r["quadrant"] in ("all", "Q4")
        for task in ("sums", "names")
    ]
    return rows + by_task


def _candidates() -> Rows:
    """Two that were judged by three components, and one that failed."""
    shared = {**HEAD, "learned": True, "seconds": 1.5, "failed": None}
    rows = [
        {
            **shared, "rank": rank, "predictor": name, "criterion": total, "component": part,
            "value": total - 0.1 * n,
        }
        for rank, name, total in ((1, "kernel", 0.412), (2, "ridge", 0.377))
        for n, part in enumerate(("centred", "pooled", "recall_of_rule"))
    ]  # fmt: skip
    return [
        *rows,
        {
            **shared, "rank": 3, "predictor": "mlp", "criterion": None, "component": None, "value": None,
            "failed": "needs a feature group of rows",
        },
    ]  # fmt: skip


def _gains() -> Rows:
    left_out = {"none": (0.5, None), "forward": (0.38, 0.12), "embedding": (0.51, -0.01)}
    curve = {15: 0.3, 30: 0.42, 60: 0.5, 120: 0.57}
    return [
        *(
            {
                **HEAD, "study": "features", "setting": name, "labels": 60, "spearman": rank, "r2": rank / 2,
                "gain": gain, "extrapolated": False,
            }
            for name, (rank, gain) in left_out.items()
        ),
        *(
            {
                **HEAD, "study": "labels", "setting": "subsample", "labels": n, "spearman": rank,
                "r2": None if n == 120 else rank / 2, "gain": None, "extrapolated": n == 120,
            }
            for n, rank in curve.items()
        ),
    ]  # fmt: skip


def _audit(train_ids: list[int], target_ids: list[int], n: int) -> Rows:
    rng = np.random.default_rng(5)
    exact = rng.normal(0.001, 0.01, n)
    predicted = 0.5 * exact + rng.normal(0.0005, 0.004, n)
    return [
        {
            **HEAD, "predictor": "kernel", "train_id": train_ids[k % len(train_ids)],
            "target_id": target_ids[k // len(train_ids) % len(target_ids)] if target_ids else None,
            "exact": float(exact[k]), "predicted": float(predicted[k]),
        }
        for k in range(n)
    ]  # fmt: skip
