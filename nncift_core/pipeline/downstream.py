"""The models of a comparison: which pool rows each is trained on, and its adapter in the workspace."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nncift_core.config import Config
from nncift_core.evaluation import check_room, longest_rows, random_rows, random_tokens
from nncift_core.finetune import (
    SHAPE,
    WEIGHTS,
    TrainingRows,
    encode,
    fine_tune,
    fine_tune_key,
    load_student_tokenizer,
    settings,
    student_is_local,
    student_key,
    student_name,
)
from nncift_core.pipeline.problem import Problem
from nncift_core.store.files import publish, write_json
from nncift_core.store.runs import intact
from nncift_core.store.workspace import Workspace

Int64 = npt.NDArray[np.int64]
CARD = "training.json"


@dataclass(frozen=True, eq=False)
class Cell:
    """One model of the comparison: a subset's name, the seed of draw and training, its pool rows [k].

    The base model has no rows and no seed; key: what its weights are a function of.
    """

    subset: str
    seed: int | None
    rows: Int64
    key: str

    @property
    def name(self) -> str:
        """As shown in the UI."""
        return self.subset if self.seed is None else f"{self.subset}, seed {self.seed}"


def check_student(config: Config, *, fetch: bool) -> None:
    """Raise UserError now for what would only show after hours: no room for answers in the context.

    fetch: whether a hub model may be downloaded for it; otherwise only local students are looked at.
    """
    if config.finetune is None or not (fetch or student_is_local(config)):
        return
    tokenizer = load_student_tokenizer(config)
    if config.target.test and "rouge" in config.evaluation.metrics:
        check_room(tokenizer, config.evaluation.max_new_tokens)


def draw_subsets(problem: Problem, run_id: str, selected: Int64) -> pa.Table:
    """View `subsets`: rows of every subset and seed, `selected` [k] being indices of pool rows.

    The longest rows and the selected ones are the same under every seed; random ones are drawn anew.
    """
    config, pool = problem.config, problem.pool
    wanted = config.evaluation.subsets if config.target.test else []
    drawn: list[tuple[str, int, Int64]] = []
    for seed in config.training_seeds():
        drawn.append(("selected", seed, selected))
        if "random" in wanted:
            drawn.append(("random", seed, random_rows(pool.example_ids, len(selected), seed)))
        if "longest" in wanted:
            lengths = pool.response_lengths()
            drawn.append(
                ("longest", seed, longest_rows(lengths, len(selected), pool.example_ids, config.seed))
            )
    if "random-tokens" in wanted:
        tokens_of = _token_counter(problem)
        budget = int(tokens_of(selected).sum())
        drawn += [
            ("random-tokens", seed, random_tokens(pool.example_ids, tokens_of, budget, seed))
            for seed in config.training_seeds()
        ]
    sizes = [len(rows) for _, _, rows in drawn]
    return pa.table(
        {
            "run_id": pa.array([run_id] * sum(sizes), pa.string()),
            "subset": pa.array(np.repeat([name for name, _, _ in drawn], sizes).tolist(), pa.string()),
            "seed": pa.array(np.repeat([seed for _, seed, _ in drawn], sizes), pa.int64()),
            "train_id": pa.array(np.concatenate([pool.example_ids[rows] for _, _, rows in drawn])),
        }
    )


def _token_counter(problem: Problem) -> Callable[[Int64], Int64]:
    """Tokens [k] of pool rows [k] as the student is trained on them, cut to its context."""
    config = problem.config
    tokenizer = load_student_tokenizer(config)

    def tokens_of(rows: Int64) -> Int64:
        encoded = encode(tokenizer, training_rows(problem, rows), settings(config).template)
        return np.array([len(s) for s in encoded.sequences], dtype=np.int64)

    return tokens_of


def cells(problem: Problem, subsets: pa.Table) -> list[Cell]:
    """Every model that the table of `draw_subsets` calls for, in its order."""
    place = {e: k for k, e in enumerate(problem.pool.example_ids.tolist())}
    rows: dict[tuple[str, int], list[int]] = {}
    names = (subsets[name].to_pylist() for name in ("subset", "seed", "train_id"))
    for subset, seed, train_id in zip(*names, strict=True):
        rows.setdefault((subset, seed), []).append(place[train_id])
    found = []
    for (subset, seed), members in rows.items():
        index = np.array(members, dtype=np.int64)
        key = fine_tune_key(problem.config, _hashes(problem, index), seed)
        found.append(Cell(subset, seed, index, key))
    return found


def base_cell(config: Config) -> Cell:
    """The student as it is."""
    return Cell("base", None, np.empty(0, np.int64), student_key(config))


def _hashes(problem: Problem, rows: Int64) -> list[str]:
    return [f"{c:016x}" for c in problem.pool.content_ids[rows].tolist()]


def training_rows(problem: Problem, rows: Int64) -> TrainingRows:
    """Texts and names of pool rows [k], in that order."""
    pool = problem.pool
    contents = pool.content_ids[rows]
    distinct, back = np.unique(contents, return_inverse=True)
    texts = pool.texts(distinct)
    columns = pool.rows.select(["row_number", "source_id"]).take(pa.array(rows)).to_pylist()
    places = [
        f"{pool.ref.dataset} row {c['row_number']}" + (f' (id "{c["source_id"]}")' if c["source_id"] else "")
        for c in columns
    ]
    return TrainingRows(
        example_ids=tuple(pool.example_ids[rows].tolist()),
        places=tuple(places),
        content_hashes=tuple(_hashes(problem, rows)),
        prompts=tuple(texts.prompts[k] for k in back),
        responses=tuple(texts.responses[k] for k in back),
    )


def is_trained(ws: Workspace, key: str) -> bool:
    """Whether the adapter of a fine-tune is there, whole."""
    folder = ws.adapter_dir(key)
    return all(intact(ws, ws.relative(folder / name)) for name in (WEIGHTS, SHAPE, CARD))


def training_card(ws: Workspace, key: str) -> dict[str, Any]:
    """What an adapter was trained on and how it went (`training.json`)."""
    card: dict[str, Any] = json.loads((ws.adapter_dir(key) / CARD).read_text(encoding="utf-8"))
    return card


def train_cell(
    problem: Problem, cell: Cell, device: str, parent: str, progress: Callable[[int], None] | None = None
) -> int:
    """Fine-tune one model and publish its adapter; returns rows times epochs.

    progress(n): n more rows were trained on, an epoch counting every row once; parent: the table of subsets.
    """
    config, ws = problem.config, problem.ws
    own = settings(config)
    rows = training_rows(problem, cell.rows)
    total, told = len(cell.rows) * own.epochs, 0

    def tell(done: int, steps: int) -> None:
        nonlocal told
        now = total * done // max(steps, 1)
        if progress is not None:
            progress(now - told)
        told = now

    assert cell.seed is not None
    with tempfile.TemporaryDirectory(dir=ws.tmp_dir) as scratch:
        folder = Path(scratch) / "adapter"
        folder.mkdir()
        tuned = fine_tune(config, rows, cell.seed, device, folder, tell)
        card = {
            "key": cell.key,
            "subset": cell.subset,
            "seed": cell.seed,
            "student": student_name(config),
            "student_key": student_key(config),
            "finetune": own.model_dump(mode="json", exclude={"model", "device", "batch_tokens"}),
            "example_ids": list(rows.example_ids),
            "content_ids": list(rows.content_hashes),
            **asdict(tuned),
        }
        write_json(folder / CARD, card)
        _publish(problem, cell, folder, parent)
    return total


def _publish(problem: Problem, cell: Cell, folder: Path, parent: str) -> None:
    """Move an adapter into the workspace, its weights last."""
    ws = problem.ws
    for name in (SHAPE, CARD, WEIGHTS):
        source = folder / name
        publish(
            ws.root,
            ws.adapter_dir(cell.key) / name,
            lambda part, source=source: _copy(source, part),  # type: ignore[misc]
            kind="adapter",
            key=cell.key,
            rows=len(cell.rows),
            producer="fine-tune",
            parents=(parent, problem.pool.ref.path, f"model:{student_key(problem.config)}"),
        )


def _copy(source: Path, part: Path) -> None:
    shutil.copyfile(source, part)
