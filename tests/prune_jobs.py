"""Small jobs of `nncift prune` in a user's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from conftest import Project, write_jsonl

from nncift_core.datasets.sources import BUILTIN_DIR
from nncift_core.store.workspace import Workspace

# Columns of the views that a prune run fills.
COLUMNS = {
    "scores": "run_id function task variant seed origin train_id score",
    "pruning": "run_id study noise noise_rate score variant sampling pruned_end pruned seed n_train "
    "mislabelled scope name metric value n_rows",
    "pruning_summary": "run_id study noise noise_rate score variant sampling pruned_end pruned n_seeds "
    "n_train accuracy spread change change_spread gain gain_lower gain_upper gain_rows verdict "
    "macro_accuracy tail_accuracy tail_change worst_class worst_class_change worst_group "
    "worst_group_change relative_error efficiency mislabelled",
    "noise_detection": "run_id noise noise_rate seed score variant planted auc average_precision found",
    "suspects": "run_id rank train_id given predicted probability consensus agreement",
    "tail_overlap": "run_id tail share score_a score_b overlap",
    "findings": "run_id finding claim holds effect spread text",
}


def intents(split: str, n: int) -> list[dict[str, Any]]:
    """The first rows of a split of the built-in intents: 50 a class to train, 20 to test."""
    lines = (BUILTIN_DIR / "intents.jsonl").read_text(encoding="utf-8").splitlines()
    found = [r for r in map(json.loads, lines) if r["split"] == split]
    return found[:n]


class PruneProject(Project):
    """A user's folder with a job that prunes 150 built-in intents of 3 classes, judged on 60."""

    def configure(self, **sections: Any) -> Path:
        """Write job.toml; `sections` change keys, None leaves one out."""
        write_jsonl(
            self.folder / "new.jsonl", [{**r, "text": f"so {r['text']}"} for r in intents("test", 60)[3::9]]
        )
        job: dict[str, dict[str, Any]] = {
            "data": {
                "source": "builtin:intents", "split": "train", "test": "test", "new": "new.jsonl",
                "limit": 150, "limit_test": 60, "columns": {"group": "domain"},
            },
            "training": {"epochs": 3, "hidden": 32, "checkpoints": 3, "log_every": 1},
            "scores": {"runs": 2, "names": ["vog", "el2n", "forgetting", "pvi", "aum"]},
            "study": {
                "studies": ["curve", "noise", "imbalance"], "scores": ["el2n", "forgetting", "vog"],
                "seeds": 2, "prune": [0.5],
            },
            "noise": {"prune": [0.5]},
            "subset": {"score": "el2n", "pruned_end": "easy", "prune": 0.5},
            "execution": {"isolation": "thread"},
        }  # fmt: skip
        for name, keys in sections.items():
            job[name] = {**job.get(name, {}), **keys} if keys is not None else {}
        path = self.folder / "job.toml"
        text = "".join(_section(name, keys) for name, keys in job.items() if keys)
        path.write_text(text, encoding="utf-8")
        return path

    def prune(self, report: bool = True) -> dict[str, Any]:
        """The job by the Python call, in this process; report: whether its page is drawn (seconds)."""
        from prefect.settings import PREFECT_API_URL, temporary_settings

        from flows.prune import prune_data
        from tasks.progress import reporter

        reporter.mode = "quiet"
        url = f"http://127.0.0.1:{self.env['NNCIFT_SERVER_PORT']}/api"
        drawn = nullcontext() if report else patch("tasks.downstream.write_report", _no_page)
        with temporary_settings({PREFECT_API_URL: url}), drawn:
            return prune_data(self.folder / "job.toml", self.workspace).model_dump(mode="json")

    def trained(self, result: dict[str, Any]) -> dict[str, int]:
        """Stage -> what it computed."""
        return {c["stage"]: c["computed"] for c in result["costs"]}

    def views(self, run: str) -> dict[str, list[dict[str, Any]]]:
        """All rows of the views that a prune run fills."""
        return {view: self.ask(f"SELECT * FROM {view} ORDER BY ALL", run) for view in COLUMNS}


def _no_page(ws: Workspace, run_id: str) -> str:
    return ws.relative(ws.report_file(run_id))


def _section(name: str, keys: Mapping[str, Any]) -> str:
    lines = [f"[{name}]"]
    for key, value in keys.items():
        if isinstance(value, dict):
            inside = ", ".join(f"{k} = {json.dumps(v)}" for k, v in value.items())
            lines.append(f"{key} = {{{inside}}}")
        elif value is not None:
            lines.append(f"{key} = {json.dumps(value)}")
    return "\n".join(lines) + "\n"
