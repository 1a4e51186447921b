"""Which earlier fit a fit on an extended design starts from, and what that does to keys and lineage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline.priced import Priced, problem, register

from nncift_core.config import parse_config
from nncift_core.errors import RunError
from nncift_core.estimator import Estimator, make
from nncift_core.hashing import digest
from nncift_core.pipeline.embed import embed_shard, plan_embed
from nncift_core.pipeline.estimate import (
    _publish,
    candidates,
    choosing,
    estimator_key,
    find_estimator,
    known_values,
    load_estimator,
    read_by,
    train,
)
from nncift_core.pipeline.exact import ExactPlan, compute_exact, plan_exact
from nncift_core.pipeline.problem import Problem
from nncift_core.pipeline.warm import fit_settings
from nncift_core.store.files import read_manifest
from nncift_core.store.references import EstimatorRef


class Lengths:
    """An encoder that knows how long texts are."""

    def __init__(self) -> None:
        self.truncated = 0

    def embed(
        self, texts: Sequence[str], progress: Callable[[int], None] | None = None, prefix: str = ""
    ) -> np.ndarray:
        angle = np.array([len(text) + sum(map(ord, text[-2:])) for text in texts], np.float32)
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)


Make = Callable[..., tuple[Problem, ExactPlan]]


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A problem whose exact values are stored, and its plan; estimators read lengths alone."""
    register(monkeypatch)

    def make(architecture: str = "kernel", **estimator: Any) -> tuple[Problem, ExactPlan]:
        config = parse_config(
            {
                "pool": {"source": "pool.jsonl"},
                "target": {"source": "target.jsonl"},
                "influence": {
                    "function": "priced", "labels": "block", "label_fraction": 0.3, "audit_pairs": 20,
                },
                "estimator": {"architecture": architecture, "features": ["lengths"], **estimator},
            }
        )  # fmt: skip
        p = problem(tmp_path, config)
        for shard in plan_exact(p).shards:
            compute_exact(p, Priced(), shard)
        for part in plan_embed(p)[0]:
            embed_shard(p, Lengths(), part)  # type: ignore[arg-type]
        return p, plan_exact(p)

    return make


def extended(plan: ExactPlan, key: str | None = None) -> ExactPlan:
    """The same labels as a design that extends the one of `plan`, or the one under `key`."""
    design = plan.design
    ref = design.ref.model_copy(update={"key": "f" * 64, "extends": key or design.ref.key})
    return replace(plan, design=replace(design, ref=ref))


def fit(p: Problem, plan: ExactPlan) -> EstimatorRef:
    return train(p, plan, estimator_key(p, plan))


def won(p: Problem, plan: ExactPlan, estimator: Estimator) -> EstimatorRef:
    """As if `estimator` had won the choice on the labels of `plan`."""
    everything, labels, _ = known_values(p, plan, choosing(p, plan))
    features = read_by(p.config, "auto", everything)
    estimator.fit(features, labels.i, labels.j, labels.values, seed=0)
    settings = {"settings": digest(fit_settings(p, "auto")), "kernel": None}
    return _publish(p, plan, estimator_key(p, plan), estimator, len(labels.i), True, {}, None, settings)


def test_a_fit_on_more_labels_starts_from_the_one_on_fewer(stored: Make) -> None:
    p, plan = stored()
    first = fit(p, plan)
    assert first.warm_from == "" and first.reason == "" and "warm_start" not in first.about
    more = extended(plan)
    key = estimator_key(p, more)
    second = train(p, more, key)
    assert second.warm_from == first.key and second.about["warm_start"] == "yes"
    assert first.key[:8] in second.reason
    assert find_estimator(p, key) == second and estimator_key(p, more) == key
    manifest = read_manifest(p.ws.root / second.path)
    assert manifest is not None and first.path in manifest.parents
    assert load_estimator(p, second).describe() == second.about


def test_a_lost_start_means_another_key_and_a_cold_fit(stored: Make) -> None:
    p, plan = stored()
    first, more = fit(p, plan), extended(plan)
    warm = estimator_key(p, more)
    (p.ws.root / first.path).unlink()
    cold = estimator_key(p, more)
    assert cold != warm
    with pytest.raises(RunError, match="run again"):
        train(p, more, warm)
    second = train(p, more, cold)
    assert second.warm_from == "" and "not stored" in second.reason and "warm_start" not in second.about
    alone = load_estimator(p, fit(p, plan))
    features, labels, _ = known_values(p, plan, np.zeros(len(plan.audit_rows), bool))
    predicted = [e.predict(features) for e in (alone, load_estimator(p, second))]
    assert np.array_equal(*predicted), "a cold fit on the same labels is the same fit"


def test_a_damaged_start_is_none(stored: Make) -> None:
    p, plan = stored()
    path = p.ws.root / fit(p, plan).path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert train(p, extended(plan), estimator_key(p, extended(plan))).warm_from == ""


@pytest.mark.parametrize("other", [{"architecture": "mlp"}, {"features": ["lengths", "bm25"]}, {"hidden": 7}])
def test_a_fit_by_other_settings_is_no_start(stored: Make, other: dict[str, Any]) -> None:
    p, plan = stored()
    fit(p, plan)
    q, plan = stored(**{"features": ["lengths"], **other})
    before = estimator_key(q, extended(plan))
    assert estimator_key(q, extended(plan, "e" * 64)) == before, "no start, no other key"


def test_a_closed_form_starts_from_nothing(stored: Make) -> None:
    p, plan = stored("ridge")
    fit(p, plan)
    second = fit(p, extended(plan))
    assert (second.warm_from, second.reason) == ("", "")


def test_the_oldest_of_several_fits_is_the_start(stored: Make) -> None:
    p, plan = stored(refit_growth=0)
    first = fit(p, plan)
    key = estimator_key(p, extended(plan))
    few = replace(plan, shards=tuple(s for s in plan.shards if s.name != "Q1 block 0"))
    assert fit(p, few).key != first.key
    assert estimator_key(p, extended(plan)) == key


def test_a_fit_stands_while_few_of_its_labels_went_away(stored: Make) -> None:
    """As the design does: rows that were removed do not have everything estimated anew."""
    p, plan = stored(refit_growth=0.5)
    first = fit(p, plan)
    labels = [s for s in plan.shards if s.purpose == "label"]
    share = labels[0].pairs / sum(s.pairs for s in labels)
    few = replace(plan, shards=tuple(s for s in plan.shards if s != labels[0]))
    assert 0 < share < 0.5 and estimator_key(p, few) == first.key
    others = replace(plan, shards=(labels[0], *(s for s in plan.shards if s.purpose == "audit")))
    assert share < 0.5 and estimator_key(p, others) != first.key
    strict, _ = stored(refit_growth=share / 2)
    assert estimator_key(strict, few) != first.key


def test_a_learned_winner_is_kept_and_not_chosen_anew(stored: Make) -> None:
    p, plan = stored("auto", candidates=["ridge", "kernel"])
    first = won(p, plan, make("kernel"))
    second = fit(p, extended(plan))
    assert (second.architecture, second.warm_from, second.chosen) == ("kernel", first.key, True)
    assert second.candidates == () and second.about["warm_start"] == "yes"
    assert second.reason.startswith("kernel was chosen on the earlier labels and is kept")


def test_a_closed_form_that_had_won_is_fitted_again(stored: Make) -> None:
    p, plan = stored("auto", candidates=["ridge", "kernel"])
    first = won(p, plan, make("ridge"))
    second = fit(p, extended(plan))
    assert (second.architecture, second.warm_from) == ("ridge", first.key)
    assert "fitted on all labels" in second.reason and "warm_start" not in second.about


def test_a_baseline_that_had_won_is_chosen_anew_in_full(stored: Make) -> None:
    p, plan = stored("auto", candidates=["ridge"])
    won(p, plan, make("constant"))
    second = fit(p, extended(plan))
    assert second.warm_from == "" and second.reason.startswith("chosen anew: on the earlier labels the base")
    features = read_by(p.config, "auto", known_values(p, plan, choosing(p, plan))[0])
    assert {c["candidate"] for c in second.candidates} == set(candidates(p.config, features))
