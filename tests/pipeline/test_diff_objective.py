"""What a change of subset did to the objective, against the objective as it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline.explained import LATER, RUN, f, matrix, publish_run, scaled
from pipeline.priced import register

from nncift_core.pipeline.diff_runs import compare_runs
from nncift_core.pipeline.explain_objective import Stored


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


def told(before: Stored) -> dict[str, Any]:
    found: dict[str, Any] = compare_runs(before.ws, RUN, LATER).told["objective"]
    return found


def test_both_subsets_are_judged_by_each_run(tmp_path: Path) -> None:
    before = publish_run(tmp_path, RUN, rule="fl", count=6)
    after = publish_run(tmp_path, LATER, rule="flmi", count=6, eta=0.5)
    found, (s, old) = told(before), scaled(before)
    picks = [stored.order().tolist() for stored in (before, after)]
    assert found["comparable"] and found["notes"] == [] and found["targets"]["common"] == 12
    for row, rule in zip(found["under"], ("fl", "flmi"), strict=True):
        values = [f(rule, s, p, old, 0.5) for p in picks]
        assert [row["before"], row["after"]] == pytest.approx(values, abs=1e-4)
        assert row["change"] == pytest.approx(values[1] - values[0], abs=1e-4)
        assert row["relative"] == pytest.approx(values[1] / values[0] - 1, abs=1e-4)
    own = [row[row["run"]] - row["recorded"] for row in found["under"]]
    assert own == pytest.approx([0, 0], abs=1e-4)
    assert found["under"][0]["change"] < 0, "greedy of fl is better under fl here"


def test_other_targets_and_pools_are_restricted_and_counted(tmp_path: Path) -> None:
    before = publish_run(tmp_path, RUN, rule="fl", count=6)
    after = publish_run(tmp_path, LATER, rule="fl", count=6, pool=20, targets=9)
    found = told(before)
    gone = [i for i in before.order().tolist() if i >= 20 - 2]
    kept = [i for i in before.order().tolist() if i < 20 - 2]
    assert gone, "the made values leave something to restrict"
    assert found["rows"]["before"] == {"used": len(kept), "left_out": len(gone)}
    assert found["targets"] == {"before": 12, "after": 9, "common": 9}
    common = np.arange(9)
    for row, stored in zip(found["under"], (before, after), strict=True):
        s = scaled(stored)[0][:, common]
        assert row["before"] == pytest.approx(f("fl", s, kept, s, 0), abs=1e-4)
    notes = " ".join(found["notes"])
    assert f"{len(gone)} of 6 rows of the subset before are not in both pools" in notes
    assert "judged on the 9 target rows that both runs have, of 12 and 9" in notes


def test_top_k_sums_scores_also_over_some_targets(tmp_path: Path) -> None:
    before = publish_run(tmp_path, RUN, count=5, all_exact=False)
    publish_run(tmp_path, LATER, count=7, targets=9, all_exact=False)
    found = told(before)
    assert found["under"][0]["rule"] == "top-k"
    p = before.problem
    at = {c: k for k, c in enumerate(p.rows.tolist())}
    values = matrix(200, 200)[[at[c] for c in p.pool.content_ids.tolist()]][:, :9]
    scores = np.stack([values[:, k::2].mean(axis=1) for k in (0, 1)]).max(axis=0)
    assert found["under"][0]["before"] == pytest.approx(float(scores[before.order()].sum()), abs=1e-4)
    assert any("5 and 7 rows: the objective grows" in n for n in found["notes"])


def test_runs_of_other_functions_judge_their_own_subset_alone(tmp_path: Path) -> None:
    before = publish_run(tmp_path, RUN, rule="fl", count=6)
    publish_run(tmp_path, LATER, rule="fl", count=6)
    path = before.ws.result_file(LATER)
    result = json.loads(path.read_text())
    result["matrix"]["function"] = "linear"
    path.write_text(json.dumps(result))
    found = told(before)
    first, second = found["under"]
    assert not found["comparable"] and "not comparable" in found["notes"][0]
    assert first["before"] == pytest.approx(first["recorded"], abs=1e-4) and first["after"] is None
    assert second["after"] == pytest.approx(second["recorded"], abs=1e-4) and second["before"] is None
    assert first["change"] is None and second["relative"] is None


def test_what_cannot_be_told_is_said_and_the_rest_is_told(tmp_path: Path) -> None:
    before = publish_run(tmp_path, RUN, rule="fl", count=6)
    publish_run(tmp_path, LATER, rule="fl", count=6)
    path = before.ws.result_file(LATER)
    path.write_text(path.read_text().replace('"keys"', '"kept"'))
    found = told(before)
    assert found["under"][1]["after"] is None and found["under"][0]["after"] is not None
    assert any(f"under run {LATER} cannot be told" in n and "too little" in n for n in found["notes"])


def test_values_measured_since_are_said(tmp_path: Path) -> None:
    before = publish_run(tmp_path, RUN, rule="fl", count=6, all_exact=False)
    publish_run(tmp_path, LATER, rule="fl", count=6, all_exact=False)
    p, best = before.problem, before.order()[0]
    content = p.pool.content_ids[[best]]
    values = np.full((1, len(p.columns)), -1.0, np.float32)
    p.exact_store.write_tile(content, p.columns, values, producer="exact-influence")
    assert sum("measured since" in n for n in told(before)["notes"]) == 2
