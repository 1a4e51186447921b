"""What prune finds on real classification data, and what it costs.

Parts: curve (clinc150, frozen encoder, the default grid), noise (clinc150, 10 % uniform and confusable
labels), snli-noise (sentence pairs, frozen encoder), imbalanced (clinc150 with rare classes), banking
(banking77, the curve), full (4,000 rows of snli_small, the encoder trained too). Without a part: all of them,
tens of minutes.

Run: python benchmarks/prune.py ../shared/data [PART ...]
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alone import settle
from machine import machine

PARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "curve": ("clinc150", {}),
    "noise": ("clinc150", {"study": {"studies": ["noise"], "scores": ["el2n", "aum", "confidence", "vog"]}}),
    "snli-noise": (
        "snli_small",
        {
            "study": {"studies": ["noise"], "scores": ["el2n", "aum", "confidence", "vog"]},
            "data": {"limit": 6000},
        },
    ),
    "imbalanced": (
        "clinc150_imbalanced", {"study": {"studies": ["imbalance"], "prune": [0.25, 0.5]}},
    ),
    "banking": ("banking77", {"study": {"prune": [0.3], "variants": False, "probabilistic": []}}),
    "full": (
        "snli_small",
        {
            "data": {"limit": 4000, "limit_test": 1000},
            "training": {"mode": "full", "epochs": 3, "batch_size": 32, "checkpoints": 4, "max_tokens": 64},
            "scores": {"runs": 1, "pvi_epochs": 1, "forgetting_epochs": 2},
            "study": {"scores": ["el2n"], "ends": ["easy"], "prune": [0.3], "seeds": 2, "variants": False,
                      "probabilistic": []},
        },
    ),
}  # fmt: skip


def config_of(part: str, data: Path) -> dict[str, Any]:
    """The job of a part, as a TOML file would say it."""
    name, given = PARTS[part]
    rows = {"source": str(data / f"{name}.parquet"), "split": "train", "test": "test"}
    job: dict[str, Any] = {"data": rows}
    for section, keys in given.items():
        job[section] = {**job.get(section, {}), **keys}
    return job


def told(part: str, result: Any, seconds: float) -> None:
    """What a part found, and what it cost."""
    f, costs = result.facts, {c["stage"]: c for c in result.costs}
    trained = [costs[s] for s in ("train-scores", "train-subsets")]
    count, spent = sum(c["computed"] for c in trained), sum(c["seconds"] for c in trained)
    after = seconds - costs.get("embed-texts", {}).get("seconds", 0.0)
    print(
        f"\n## {part}: {f['rows']:,} rows, {f['classes']} classes, {f['test_rows']:,} test rows, {f['mode']}"
    )
    print(f"{seconds:.0f} s in all, {after:.0f} s after embedding; {count} trainings in {spent:.0f} s")
    print(
        f"accuracy of all rows {f['accuracy_all'] or math.nan:.4f}; {f['recommendation_verdict']}: "
        f"{f['recommendation']}"
    )
    for row in result.summary:
        print(f"  {described(row)}")
    detected(result.detection)
    for row in result.findings:
        if row["holds"] != "not studied":
            print(f"  [{row['holds']}] {row['claim']} {row['text']}")


def described(row: dict[str, Any]) -> str:
    """A subset: accuracy, change against all data, gain over random rows."""
    names = ("study", "noise", "score", "variant", "sampling", "pruned_end")
    text = f"{' '.join(row[n] for n in names if row[n]):48} {row['pruned']:4.0%} {row['accuracy']:.4f}"
    if row["change"] is not None:
        text += f" change {row['change']:+.4f} +- {row['change_spread'] or 0:.4f}"
    if row["gain"] is not None:
        text += (
            f" gain {row['gain']:+.4f} ({row['gain_lower']:+.4f}..{row['gain_upper']:+.4f}) {row['verdict']}"
        )
    return text


def detected(rows: Sequence[dict[str, Any]]) -> None:
    """How well every score finds planted labels, mean and spread over draws."""
    for key in dict.fromkeys((r["noise"], r["noise_rate"], r["score"], r["variant"]) for r in rows):
        of = [r for r in rows if (r["noise"], r["noise_rate"], r["score"], r["variant"]) == key]
        shown = []
        for name in ("auc", "average_precision", "found"):
            values = [r[name] for r in of]
            shown.append(f"{name} {statistics.mean(values):.3f} +- {statistics.stdev(values):.3f}")
        print(f"  {key[0]} {key[1]:.0%} {key[2]} {key[3]}: {', '.join(shown)}")


def main(data: Path, parts: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settle(Path(folder) / "prefect")
        from flows.prune import prune_data
        from flows.server import stop
        from tasks.progress import reporter

        reporter.mode = "quiet"
        print(machine())
        try:
            for part in parts:
                started = time.monotonic()
                result = prune_data(config_of(part, data), Path(folder) / "ws")
                told(part, result, time.monotonic() - started)
        finally:
            stop()


if __name__ == "__main__":
    chosen = sys.argv[2:] or list(PARTS)
    unknown = [p for p in chosen if p not in PARTS]
    if len(sys.argv) < 2 or unknown:
        raise SystemExit(f"usage: python benchmarks/prune.py DATA [{' | '.join(PARTS)}] ...")
    main(Path(sys.argv[1]).resolve(), chosen)
