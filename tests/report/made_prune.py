"""Prune runs with known values, written with the store's own functions; no model is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nncift_core.records import Example
from nncift_core.scores.catalogue import CATALOGUE
from nncift_core.store.dataset_writer import store_dataset
from nncift_core.store.datasets import Dataset
from nncift_core.store.runs import Cost, attempt, publish_table
from nncift_core.store.views import rows_table
from nncift_core.store.workspace import Workspace

RUN = "0a1b2c3d4e5f6073"
CONFIG = {"seed": 0, "data": {"source": "train.jsonl", "columns": {"text": "t"}}, "study": {"seeds": 3}}
ALL = ("curve", "noise", "imbalance")
SCORES = tuple(entry.frozen or name for name, entry in CATALOGUE.items())
HARD = {entry.frozen or name: entry.hard for name, entry in CATALOGUE.items()}
DEFAULT = {entry.frozen or name: entry.variants[0] for name, entry in CATALOGUE.items()}
FULL = 0.9


@dataclass
class PruneMaker:
    """Writes prune runs into one workspace; the sizes are small enough for quick tests unless told."""

    folder: Path
    classes: int = 4
    per_class: int = 6
    scores: tuple[str, ...] = ("vog-embedding", "el2n", "aum", "confidence", "variability")
    shares: tuple[float, ...] = (0.1, 0.5)
    seeds: int = 2
    names: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    groups: tuple[str, ...] = ("phone", "web")
    pairs: bool = False

    def __post_init__(self) -> None:
        self.ws = Workspace.create(self.folder / "my ws")
        self.rng = np.random.default_rng(3)
        self.labels = self.names or tuple(f"class {k}" for k in range(self.classes))

    def make(
        self,
        run_id: str = RUN,
        *,
        studies: tuple[str, ...] = ALL,
        others: bool = True,
        facts: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
    ) -> Workspace:
        """A finished run. studies: those that were made; others: there are scores, suspects, overlaps,
        learned scores and findings too."""
        sets = [self._set(role, n) for role, n in (("train", self.per_class), ("test", 2))]
        views: dict[str, list[dict[str, Any]]] = {}
        if studies:
            views["pruning_summary"] = [r for s in studies for n in noises(s) for r in self._summary(s, *n)]
            views["pruning"] = [r for s in studies if s != "noise" for r in self._parts(s)]
        if "noise" in studies:
            views["noise_detection"] = self._detection()
        if others:
            ids = sets[0].example_ids.tolist()
            views |= {"scores": self._scores(ids), "suspects": self._suspects(ids)}
            views |= {"tail_overlap": self._overlap(), "estimator_quality": self._learned()}
            views["findings"] = claims()
        with attempt(self.ws, run_id, config or CONFIG, {"torch": "2.13.0"}) as current:
            for n, stage in enumerate(("ingest", "embed", "train-classifiers", "prune-study")):
                current.cost(Cost(stage, "cpu", 100 + n, 90, 10 + n, 1.25 + n, 300.5))
            current.publish_result(
                {
                    "run_id": run_id, "kind": "prune", "function": "prune",
                    "datasets": [
                        {**d.ref.model_dump(mode="json"), "blocks": [self.ws.relative(b) for b in d.blocks]}
                        for d in sets
                    ],
                    "matrix": {"function": "prune", "exact": [], "estimates": [], "members": None},
                    "tables": {v: self._publish(run_id, v, rows) for v, rows in views.items()},
                    "facts": {**self._facts(run_id), **(facts or {})},
                }
            )  # fmt: skip
        return self.ws

    def _facts(self, run_id: str) -> dict[str, Any]:
        folder = f"runs/{run_id}"
        return {
            "recommendation": "Prune 10 % by el2n from the easy end: expected change +0.1 +- 0.3 points",
            "recommendation_verdict": "prune", "rows": self.classes * self.per_class, "classes": self.classes,
            "accuracy_all": FULL, "mode": "frozen", "head": "paper", "encoder": "builtin", "subset_rows": 21,
            "subset": f"{folder}/subset.jsonl", "suspects_csv": f"{folder}/suspects.csv",
            "command": "nncift prune 'a b.toml'", "truncated_texts": 2,
        }  # fmt: skip

    def _publish(self, run_id: str, view: str, rows: list[dict[str, Any]]) -> str:
        table = rows_table(view, [{"run_id": run_id, **r} for r in rows])
        return publish_table(self.ws, run_id, view, "0" * 16, table, producer="test", parents=())

    def _set(self, role: str, per_class: int) -> Dataset:
        texts = self.texts or ("what is my balance", "wake me at 7", "book a table for 2")
        rows = [
            Example(
                f"{role} {k}: {texts[k % len(texts)]}", f"so it is {k}" if self.pairs else "", k,
                label=self.labels[k % self.classes], task=self.groups[k % len(self.groups)],
            )
            for k in range(per_class * self.classes)
        ]  # fmt: skip
        stored = store_dataset(self.ws, rows, dataset="mine", role=role, block_rows=50_000, fingerprint="f")
        return Dataset(self.ws, stored)

    def _subsets(self) -> list[dict[str, Any]]:
        """Every subset that a study may train on, with its place among the scores."""
        made = [{"score": "all", "pruned": 0.0}]
        made += [{"score": s, "pruned": p} for s in ("random", "stratified") for p in self.shares]
        ways = [(s, "cut", end) for s in self.scores for end in ("easy", "hard")]
        ways += [(self.scores[0], how, "easy") for how in ("softmax", "linear")]
        made += [
            {"score": s, "sampling": how, "pruned_end": end, "variant": DEFAULT[s], "pruned": p}
            for s, how, end in ways
            for p in self.shares
        ]
        none = {"sampling": "", "pruned_end": "", "variant": None}
        return [{**none, **m} for m in made]

    def _summary(self, study: str, noise: str, rate: float | None) -> list[dict[str, Any]]:
        rows, n = [], self.classes * self.per_class
        for k, s in enumerate(self._subsets()):
            steep = {"": 0.08, "easy": 0.05, "hard": 0.14}[s["pruned_end"]] * (1 + 0.05 * (k % 7))
            change = -steep * s["pruned"] ** 1.5 + float(self.rng.normal(0, 0.001))
            scored, whole = s["score"] not in ("all", "random"), s["score"] == "all"
            gain = change + 0.08 * s["pruned"] ** 1.5 if scored else None
            verdict = "better" if gain and gain > 0.01 else "worse" if gain and gain < -0.01 else None
            planted = None if not noise else round(n * (rate or 0) * (1 - s["pruned"]), 1)
            rows.append(
                {
                    "study": study, "noise": noise, "noise_rate": rate, **s, "n_seeds": self.seeds,
                    "n_train": round(n * (1 - s["pruned"])), "accuracy": FULL + (0 if whole else change),
                    "spread": 0.004, "change": None if whole else change,
                    "change_spread": None if whole else 0.003, "gain": gain,
                    "gain_lower": gain - 0.01 if gain is not None else None,
                    "gain_upper": gain + 0.01 if gain is not None else None,
                    "gain_rows": 0.005 if scored else None,
                    "verdict": (verdict or "no clear difference") if scored else None,
                    "macro_accuracy": FULL + change, "tail_accuracy": 0.8 + 2 * change,
                    "tail_change": None if whole else 2 * change,
                    "worst_class": None if whole else self.labels[k % self.classes],
                    "worst_class_change": None if whole else 4 * change,
                    "worst_group": None if whole or not self.groups[0] else self.groups[k % len(self.groups)],
                    "worst_group_change": None if whole or not self.groups[0] else 2 * change,
                    "relative_error": None if whole else -change / (1 - FULL),
                    "efficiency": None if whole else -change / (1 - FULL) / s["pruned"],
                    "mislabelled": planted,
                }
            )  # fmt: skip
        return rows

    def _parts(self, study: str) -> list[dict[str, Any]]:
        scopes = [("class", name) for name in self.labels]
        scopes += [("group", name) for name in self.groups if name]
        return [
            {
                "study": study, "noise": "", "noise_rate": None, **s, "seed": seed, "n_train": 20,
                "mislabelled": None, "scope": scope, "name": name, "metric": "accuracy", "n_rows": 2 + k,
                "value": 0.9 - 0.01 * (k % 5) * s["pruned"] + 0.001 * seed,
            }
            for s in self._subsets()
            for seed in range(self.seeds)
            for k, (scope, name) in enumerate(scopes)
        ]  # fmt: skip

    def _detection(self) -> list[dict[str, Any]]:
        return [
            {
                "noise": kind, "noise_rate": rate, "seed": seed, "score": s, "variant": DEFAULT[s],
                "planted": 10, "auc": 0.99 - 0.03 * k, "found": 0.9 - 0.06 * k,
                "average_precision": 0.95 - 0.07 * k - 0.02 * seed - (0.2 if kind == "confusable" else 0),
            }
            for kind, rate in (*noises("noise"), ("uniform", 0.1))
            for k, s in enumerate(self.scores)
            for seed in range(self.seeds)
        ]  # fmt: skip

    def _scores(self, ids: list[int]) -> list[dict[str, Any]]:
        n = len(ids)
        ease = self.rng.beta(5, 1.5, n) * (0.6 + 0.4 * (np.arange(n) % self.classes) / self.classes)
        waver = ease * (1 - ease) + 0.03 * self.rng.random(n)
        rows = []
        for s in self.scores:
            hardness = (1 - ease + 0.1 * self.rng.normal(size=n)) * (1 if HARD[s] == "high" else -1)
            values = {"confidence": ease, "variability": waver, "aum": 6 * (ease - 0.35)}.get(s, hardness)
            rows += [
                {
                    "function": s, "task": None, "variant": v, "seed": None, "origin": "exact",
                    "train_id": i, "score": float(x),
                }
                for v in (DEFAULT[s], "another")
                for i, x in zip(ids, values, strict=True)
            ]  # fmt: skip
        return rows

    def _suspects(self, ids: list[int]) -> list[dict[str, Any]]:
        return [
            {
                "rank": k + 1, "train_id": i, "given": self.labels[k % self.classes],
                "predicted": self.labels[(k + 1) % self.classes], "probability": 0.001 + 0.002 * k,
                "consensus": 0.99 - 0.001 * k, "agreement": 0.8,
            }
            for k, i in enumerate(ids[:40])
        ]  # fmt: skip

    def _overlap(self) -> list[dict[str, Any]]:
        def shared(a: int, b: int, tail: str) -> float:
            return 1.0 if a == b else 0.3 + 0.6 / (1 + abs(a - b)) - (0.1 if tail == "easy" else 0)

        return [
            {"tail": tail, "share": 0.3, "score_a": a, "score_b": b, "overlap": shared(i, j, tail)}
            for tail in ("easy", "hard")
            for i, a in enumerate(self.scores)
            for j, b in enumerate(self.scores)
        ]

    def _learned(self) -> list[dict[str, Any]]:
        quality = {"kernel": 0.7, "class mean": 0.5, "constant": None, "embedding cosine": 0.2}
        return [
            {
                "function": s, "quadrant": None, "target_task": "all", "role": "audit", "predictor": p,
                "n_pairs": 60, "mse": 0.1, "r2": 1 / 3, "pearson": 0.5,
                "spearman": None if rho is None else rho - 0.02 * k,
                "spearman_per_target": None, "recall_at_k": 0.25,
                "lower": None if rho is None else rho - 0.1, "upper": None if rho is None else rho + 0.05,
                "verdict": ("trusted: it ranks best" if k else "refused: class mean does as well")
                if p == "kernel"
                else None,
                "spearman_centred": None,
            }
            for k, s in enumerate(self.scores)
            for p, rho in quality.items()
        ]  # fmt: skip


def noises(study: str) -> tuple[tuple[str, float | None], ...]:
    """The noises that subsets of a study are drawn under."""
    return (("confusable", 0.1),) if study == "noise" else (("", None),)


def claims() -> list[dict[str, Any]]:
    """A finding of every kind."""
    told = {
        "prune-hard": ("Pruning the hard end hurts on clean data.", "yes", -0.02),
        "early": ("EL2N early is better than EL2N late.", "no", -0.001),
        "mislabels": ("Gains under noise are not explained by removed mislabels.", "unclear", 0.0),
        "normalisation": ("VoG by class beats VoG by data set.", "not studied", None),
    }
    return [
        {
            "finding": f, "claim": claim, "holds": holds, "effect": effect,
            "spread": None if effect is None else 0.002, "text": f"Change {effect} at 50 % dropped.",
        }
        for f, (claim, holds, effect) in told.items()
    ]  # fmt: skip
