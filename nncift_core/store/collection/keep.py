"""Which results stay: the newest of every series, and work that was broken off and may go on."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from nncift_core.store.runs import read_attempts
from nncift_core.store.workspace import Workspace

# What was broken off longer ago is not waited for.
PATIENCE = timedelta(days=30)
MARK = "collected.json"


@dataclass(frozen=True)
class Published:
    """A run's result as it stands; sweep: whether it is one."""

    run_id: str
    result: dict[str, Any]
    sweep: bool

    @property
    def published_at(self) -> str:
        """When, as ISO-8601."""
        return str(self.result["published_at"])


@dataclass(frozen=True)
class Kept:
    """results, sweeps: those that stay, newest first; unfinished: ids of runs that were broken off and have
    nothing newer in their series; replaced: results that go."""

    results: tuple[Published, ...]
    sweeps: tuple[Published, ...]
    unfinished: tuple[str, ...]
    replaced: tuple[Published, ...]

    @property
    def runs(self) -> frozenset[str]:
        """Ids of all runs whose files stay."""
        return frozenset([*(p.run_id for p in (*self.results, *self.sweeps)), *self.unfinished])


def choose_kept(ws: Workspace, keep: int) -> Kept:
    """The newest `keep` results of every series, valuations and sweeps apart."""
    attempts: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for a in read_attempts(ws):
        attempts[a["run_id"]].append(a)
    everything = _published(ws)
    names = _Names(everything, attempts)
    series: dict[str, list[Published]] = defaultdict(list)
    for found in everything:
        series[names.of(found.result, attempts[found.run_id], found.sweep)].append(found)
    kept: list[Published] = []
    replaced: list[Published] = []
    for members in series.values():
        members.sort(key=lambda p: p.published_at, reverse=True)
        kept += members[:keep]
        replaced += members[keep:]
    newest = {name: members[0].published_at for name, members in series.items()}
    kept.sort(key=lambda p: p.published_at, reverse=True)
    have = {p.run_id for members in series.values() for p in members}
    lost = [i for i, records in attempts.items() if i not in have and _goes_on(ws, records, names, newest)]
    return Kept(
        tuple(p for p in kept if not p.sweep),
        tuple(p for p in kept if p.sweep),
        tuple(sorted(lost)),
        tuple(sorted(replaced, key=lambda p: p.published_at)),
    )


def read_mark(ws: Workspace, run_id: str) -> str:
    """When `nncift gc` took a run's result away, as ISO-8601; "" where it did not."""
    try:
        text = (ws.run_dir(run_id) / MARK).read_text(encoding="utf-8")
        return str(json.loads(text)["collected_at"])
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return ""


def _published(ws: Workspace) -> list[Published]:
    files = (ws.root / "runs").glob("*/*.json")
    found: list[Published] = []
    for path in sorted(p for p in files if p.name in ("result.json", "sweep.json")):
        found.append(Published(path.parent.name, _read(path), path.name == "sweep.json"))
    return found


def _read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


class _Names:
    """What the runs of one job share: what was recorded, else function and names of the data; results of an
    older version join the recorded series of their job."""

    def __init__(self, published: list[Published], attempts: dict[str, list[dict[str, Any]]]) -> None:
        self._recorded: dict[str, str] = {}
        for p in published:
            name, job = _recorded(p.result, attempts[p.run_id]), _job(attempts[p.run_id], p.sweep)
            if name and job:
                self._recorded[job] = name

    def of(self, result: dict[str, Any], attempts: list[dict[str, Any]], sweep: bool) -> str:
        """Of a result, or of the attempts of a run without one."""
        name, job = _recorded(result, attempts), _job(attempts, sweep)
        # Where nothing says what it belongs to, nothing replaces it.
        return name or self._recorded.get(job, job) or str(result["run_id"])


def _recorded(result: dict[str, Any], attempts: list[dict[str, Any]]) -> str:
    return next((str(r["series"]) for r in (result, *reversed(attempts)) if r.get("series")), "")


def _config(attempts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    configs = [a["config"] for a in attempts]
    raw = configs[-1] if configs else {}
    found: dict[str, Any] = json.loads(raw) if isinstance(raw, str) else raw
    return found


def _job(attempts: list[dict[str, Any]], sweep: bool) -> str:
    config = _config(attempts)
    if not config:
        return ""
    pool, target = config.get("pool") or {}, config.get("target") or {}
    data = [[d.get("name"), d.get("source"), d.get("split")] for d in (pool, target)]
    kind = f"sweep {config.get('study', '')}" if sweep else "run"
    return json.dumps([kind, (config.get("influence") or {}).get("function"), *data], ensure_ascii=False)


def _goes_on(ws: Workspace, attempts: list[dict[str, Any]], names: _Names, newest: dict[str, str]) -> bool:
    """Whether a run without a result may still be completed: it was broken off, not long ago, and its series
    has nothing newer."""
    last = attempts[-1]
    started = str(last["started_at"])
    if any(a["status"] == "completed" for a in attempts) or read_mark(ws, last["run_id"]) > started:
        return False
    if datetime.now(UTC) - datetime.fromisoformat(started) > PATIENCE:
        return False
    series = names.of({"run_id": last["run_id"]}, attempts, "study" in _config(attempts))
    return newest.get(series, "") < started
