"""The models of a comparison: which pool rows each is trained on, and its weights in the workspace."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nncift_core.config import Config
from nncift_core.errors import UserError
from nncift_core.evaluation import check_room, longest_rows, random_rows, random_tokens
from nncift_core.finetune import (
    MODEL_SHAPE,
    MODEL_WEIGHTS,
    SHAPE,
    WEIGHTS,
    TrainingRows,
    check_method,
    encode,
    fine_tune,
    fine_tune_key,
    load_student_tokenizer,
    mask_preview,
    model_card,
    settings,
    student_is_local,
    student_key,
    student_name,
)
from nncift_core.finetune.card import README
from nncift_core.finetune.training import FineTuned
from nncift_core.pipeline.joining import inviting
from nncift_core.pipeline.problem import Problem
from nncift_core.store.files import made_in, publish, write_json
from nncift_core.store.remote.mirrors import bring
from nncift_core.store.runs import intact
from nncift_core.store.workspace import Workspace

Int64 = npt.NDArray[np.int64]
CARD = "training.json"
# What the card of trained weights does not tell.
_OF_THIS_MACHINE = {"model", "device", "batch_tokens", "rendezvous", "join_timeout_s"}


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
    """Raise UserError now for what would only show after hours: no room for answers in the context, no
    GPU for 4-bit weights, no chat template, several hosts where another machine would be one of them.

    fetch: whether a hub model may be downloaded for it; otherwise only local students are looked at.
    """
    if config.finetune is None:
        return
    if config.finetune.hosts > 1 and config.execution.runner != "local":
        raise UserError(
            f"a training over several hosts begins on the machine that runs the job, and runner = "
            f'"{config.execution.runner}" gives it to another one',
            field="finetune.hosts",
            mend='Set runner = "local", or hosts = 1.',
        )
    check_method(config)
    if not (fetch or student_is_local(config)):
        return
    tokenizer = load_student_tokenizer(config)
    e = config.evaluation
    if config.target.test and (e.generates or "icl" in e.modes):
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
    """Whether the weights of a fine-tune are there, whole: an adapter, or a model of its own."""
    folder = ws.adapter_dir(key)
    whole = any(
        all(intact(ws, ws.relative(folder / name)) for name in (*names, CARD))
        for names in ((WEIGHTS, SHAPE), (MODEL_WEIGHTS, MODEL_SHAPE))
    )
    if whole:
        # Its tokenizer, too: whoever asks is about to load it.
        bring(folder, folder.glob("*"))
    return whole


def trained_weights(ws: Workspace, key: str) -> Path:
    """The file of a fine-tune's weights, by which its scores name what they are of."""
    folder = ws.adapter_dir(key)
    bring(folder, folder.glob("*"))
    return folder / (MODEL_WEIGHTS if (folder / MODEL_WEIGHTS).is_file() else WEIGHTS)


def training_card(ws: Workspace, key: str) -> dict[str, Any]:
    """What was trained on what and how it went (`training.json`)."""
    card: dict[str, Any] = json.loads((ws.adapter_dir(key) / CARD).read_text(encoding="utf-8"))
    return card


def train_cell(
    problem: Problem, cell: Cell, device: str, parent: str, progress: Callable[[int], None] | None = None
) -> int:
    """Fine-tune one model and publish it; returns rows times passes (`FinetuneConfig.passes`).

    A training that was killed goes on where it was. progress(n): n more rows were trained on, a pass
    counting every row once; parent: the table of subsets.
    """
    config, ws = problem.config, problem.ws
    own = settings(config)
    rows = training_rows(problem, cell.rows)
    total, told = len(cell.rows) * own.passes, 0

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
        under_way = ws.training_dir(cell.key)
        invite = inviting(ws, lambda: tell(0, 0))
        tuned = fine_tune(config, rows, cell.seed, device, folder, tell, under_way, invite)
        _describe(problem, cell, rows, tuned, folder)
        _publish(problem, cell, folder, parent)
        shutil.rmtree(under_way, ignore_errors=True)
    return total


def _describe(problem: Problem, cell: Cell, rows: TrainingRows, tuned: FineTuned, folder: Path) -> None:
    """Write beside the weights what they are: for programs, and for people."""
    config = problem.config
    assert cell.seed is not None
    card = {
        "key": cell.key,
        "subset": cell.subset,
        "seed": cell.seed,
        "student": student_name(config),
        "student_key": student_key(config),
        "finetune": settings(config).model_dump(mode="json", exclude=_OF_THIS_MACHINE),
        "example_ids": list(rows.example_ids),
        "content_ids": list(rows.content_hashes),
        "masks": [row.to_json() for row in mask_preview(config, rows)],
        **asdict(tuned),
    }
    write_json(folder / CARD, card)
    text = model_card(
        config,
        tuned,
        rows.content_hashes,
        subset=cell.subset,
        seed=cell.seed,
        key=cell.key,
        run=made_in(problem.ws.root).partition("/")[0],
    )
    (folder / README).write_text(text, encoding="utf-8")


def _publish(problem: Problem, cell: Cell, folder: Path, parent: str) -> None:
    """Move what was trained into the workspace, its weights last."""
    ws = problem.ws
    weights = (WEIGHTS, MODEL_WEIGHTS)
    for source in sorted(folder.iterdir(), key=lambda path: (path.name in weights, path.name)):
        publish(
            ws.root,
            ws.adapter_dir(cell.key) / source.name,
            lambda part, source=source: _copy(source, part),  # type: ignore[misc]
            kind="adapter",
            key=cell.key,
            rows=len(cell.rows),
            producer="fine-tune",
            parents=(parent, problem.pool.ref.path, f"model:{student_key(problem.config)}"),
        )


def _copy(source: Path, part: Path) -> None:
    shutil.copyfile(source, part)


def masks_table(problem: Problem, run_id: str, found: Sequence[Cell]) -> list[dict[str, Any]]:
    """Rows of view `training_masks`: the first training rows of each subset, token by token.

    Of its first seed; trainings of an older version noted none. tokens, learned_tokens: of the whole row, of
    which `position` runs over those that were noted.
    """
    first: dict[str, Cell] = {}
    for cell in found:
        if cell.seed is not None:
            first.setdefault(cell.subset, cell)
    rows = []
    for cell in first.values():
        for row in training_card(problem.ws, cell.key).get("masks", []):
            shared = {"run_id": run_id, "subset": cell.subset, "seed": cell.seed}
            shared |= {"train_id": row["example_id"]}
            shared |= {"tokens": row["n_tokens"], "learned_tokens": row["n_learned"]}
            rows += [
                shared | {"position": position, "text": text, "learned": learned}
                for position, text, learned in row["tokens"]
            ]
    return rows
