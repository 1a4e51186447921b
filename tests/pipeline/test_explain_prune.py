"""What is told of a row of a prune run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report.made_prune import RUN, PruneMaker

from nncift_core.errors import UserError
from nncift_core.pipeline.explain import explain
from nncift_core.store.query import rows
from nncift_core.store.runs import publish_table
from nncift_core.store.views import rows_table
from nncift_core.store.workspace import Workspace


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    """24 rows, of which the 21 easiest by AUM were kept."""
    ws = PruneMaker(tmp_path).make()
    path = ws.result_file(RUN)
    result = json.loads(path.read_text())
    kept = by_aum(ws)[:21]
    table = rows_table(
        "selection",
        [
            {"run_id": RUN, "rank": k, "train_id": i, "gain": None, "score": s}
            for k, (i, s) in enumerate(kept, 1)
        ],
    )
    result["tables"]["selection"] = publish_table(
        ws, RUN, "selection", "1" * 16, table, producer="test", parents=()
    )
    result["facts"] |= {"subset_by": "config", "suspects": 40, "suspects_left_out": 3}
    path.write_text(json.dumps(result))
    return ws


def by_aum(ws: Workspace) -> list[tuple[int, float]]:
    """Easiest first: of AUM, high is easy."""
    sql = "SELECT train_id, score FROM scores WHERE function = 'aum' AND variant = 'mean' ORDER BY score DESC"
    return [(r["train_id"], r["score"]) for r in rows(ws, sql, RUN)]


def asked(ws: Workspace, example: int) -> dict[str, Any]:
    return explain(ws, str(example), RUN)


def test_scores_come_with_percentiles_and_their_hard_end(ws: Workspace) -> None:
    order = by_aum(ws)
    for place, (example, value) in list(enumerate(order))[::6]:
        told = {(s["score"], s["variant"]): s for s in asked(ws, example)["scores"]}
        aum = told["aum", "mean"]
        assert aum["value"] == value and aum["hard_end"] == "low" and aum["of"] == 24
        assert aum["percentile"] == pytest.approx(100 * (23 - place) / 23)
        assert aum["difficulty"] == pytest.approx(100 * place / 23)
        el2n = told["el2n", "early"]
        assert el2n["hard_end"] == "high" and el2n["difficulty"] == el2n["percentile"]


def test_kept_and_dropped_rows_are_told_against_the_edge(ws: Workspace) -> None:
    order = by_aum(ws)
    kept, dropped = asked(ws, order[4][0])["subset"], asked(ws, order[-1][0])["subset"]
    assert (kept["kept"], kept["rank"], kept["of"], kept["by"]) == (True, 5, 21, "config")
    assert (dropped["kept"], dropped["rank"]) == (False, None)
    for told, (_, value) in ((kept, order[4]), (dropped, order[-1])):
        assert (told["score"], told["value"], told["edge"]) == ("aum", value, order[20][1])


def test_a_suspect_is_told_with_its_rank_and_others_are_not(tmp_path: Path) -> None:
    ws = PruneMaker(tmp_path, per_class=12).make()
    suspects = rows(ws, "SELECT train_id FROM suspects ORDER BY rank", RUN)
    told = asked(ws, suspects[2]["train_id"])
    assert told["suspect"]["rank"] == 3 and told["suspect"]["given"] != told["suspect"]["predicted"]
    assert told["row"]["label"] and told["subset"] is None, "no subset was written"
    listed = {s["train_id"] for s in suspects}
    other = next(i for i in np.unique([i for i, _ in by_aum(ws)]).tolist() if i not in listed)
    assert asked(ws, other)["suspect"] is None


def test_a_test_row_is_not_explained(ws: Workspace) -> None:
    (row,) = rows(ws, "SELECT example_id FROM examples WHERE role = 'test' LIMIT 1", RUN)
    with pytest.raises(UserError, match="is a row of the test data. Name a row of the train data"):
        asked(ws, row["example_id"])
