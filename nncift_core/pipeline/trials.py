"""What is evaluated, and under which keys its scores are kept: models, and prompts with examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from nncift_core.config import Config
from nncift_core.evaluation import HeldOut, check_choices, judge_key
from nncift_core.evaluation.endpoint import api_key
from nncift_core.finetune import settings, student_key
from nncift_core.hashing import digest
from nncift_core.pipeline.downstream import Cell, base_cell
from nncift_core.pipeline.problem import Problem
from nncift_core.store.datasets import Dataset
from nncift_core.store.files import read_manifest
from nncift_core.store.runs import intact

Int64 = npt.NDArray[np.int64]
Mode = Literal["finetune", "icl", "base"]
# Raise these when the same inputs would give other scores; of a metric that is not named here, VERSION.
VERSION = 1
ICL_VERSION = 2
METRIC_VERSIONS = {"similarity": 1, "exact": 1, "choice": 1}
JUDGE_VERSION = 1


@dataclass(frozen=True, eq=False)
class Trial:
    """One model, or set of prompts, on the held-out rows.

    mode: "finetune" is the model trained on the cell's rows, "icl" the student as it is with examples out of
    them before each prompt, "base" the student alone.
    """

    cell: Cell
    mode: Mode

    @property
    def name(self) -> str:
        """As shown in the UI."""
        return f"{self.cell.name}, in context" if self.mode == "icl" else self.cell.name


def trials(config: Config, cells: Sequence[Cell], *, base: bool | None = None) -> list[Trial]:
    """What is to be evaluated: the base model, then every cell in every mode of `evaluation.modes`.

    In context nothing is trained, so seeds of a subset that have the same rows share one trial, that of the
    first of them. base: whether the base model is among them; None: where `evaluation.subsets` names it.
    """
    e = config.evaluation
    wanted = "base" in e.subsets if base is None else base
    found = [Trial(base_cell(config), "base")] if wanted else []
    if e.trains:
        found += [Trial(cell, "finetune") for cell in cells]
    if "icl" in e.modes:
        once = {(cell.subset, np.sort(cell.rows).tobytes()): cell for cell in reversed(cells)}
        kept = {id(cell) for cell in once.values()}
        found += [Trial(cell, "icl") for cell in cells if id(cell) in kept]
    return found


@dataclass(frozen=True, eq=False)
class HeldOutRows:
    """The rows of `target.test` [n]: identities, contents and tasks."""

    example_ids: Int64
    content_ids: Int64
    tasks: npt.NDArray[np.str_]

    @classmethod
    def of(cls, problem: Problem) -> HeldOutRows:
        """All held-out rows of a job; none gives empty arrays."""
        sets = problem.of_role("test")
        if not sets:
            return cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.str_))
        return cls(
            np.concatenate([d.example_ids for d in sets]),
            np.concatenate([d.content_ids for d in sets]),
            np.array([t for d in sets for t in d.tasks()], dtype=np.str_),
        )

    @property
    def contents(self) -> Int64:
        """Distinct contents, sorted: what is evaluated."""
        return np.unique(self.content_ids)

    def slices(self) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
        """ "all" and, where there are several, each task, with its rows [n], one for each distinct text.

        A second row of a text has the same scores, so it would only feign more evidence.
        """
        yield "all", self._once(np.ones(len(self.tasks), dtype=bool))
        names = sorted(set(self.tasks.tolist()))
        if len(names) > 1:
            for name in names:
                yield "all (task)" if name == "all" else name, self._once(self.tasks == name)

    def _once(self, here: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """`here` [n] without the rows whose text an earlier one of them has."""
        at = np.flatnonzero(here)
        _, first = np.unique(self.content_ids[at], return_index=True)
        once = np.zeros(len(here), dtype=bool)
        once[at[first]] = True
        return once


def held_out_texts(problem: Problem, contents: Int64) -> HeldOut:
    """Prompts and references of `contents` [n], in that order."""
    found: dict[int, tuple[str, str]] = {}
    sets: list[Dataset] = problem.of_role("test")
    for dataset in sets:
        here = contents[np.isin(contents, dataset.contents)]
        t = dataset.texts(here)
        found.update(zip(here.tolist(), zip(t.prompts, t.responses, strict=True), strict=True))
    pairs = [found[c] for c in contents.tolist()]
    return HeldOut(tuple(p for p, _ in pairs), tuple(r for _, r in pairs))


def check_evaluation(problem: Problem) -> None:
    """Raise UserError now for what an evaluation would refuse after the training: no multiple-choice rows for
    "choice", a judge's rubric or key that cannot be used."""
    e = problem.config.evaluation
    if "choice" in e.metrics:
        check_choices(held_out_texts(problem, HeldOutRows.of(problem).contents))
    if "judge" in e.metrics and e.judge is not None:
        e.judge.own_rubric(problem.config.base_dir)
        api_key(e.judge)


def needs_encoder(config: Config, trial: Trial) -> bool:
    """Whether `evaluate_trial` asks for the job's encoder."""
    return trial.mode == "icl" or "similarity" in config.evaluation.metrics


def model_metrics(config: Config) -> list[str]:
    """Metrics that the model itself is asked for, sorted: all but the judge's."""
    return sorted(m for m in config.evaluation.metrics if m != "judge")


def answers_key(problem: Problem, trial: Trial) -> str:
    """Identity of what the model itself said: the model, the held-out contents, metrics, how answers are
    made, and what else the metrics read."""
    config, e = problem.config, problem.config.evaluation
    contents, template = HeldOutRows.of(problem).contents.tolist(), settings(config).template
    metrics = model_metrics(config)
    if "judge" in e.metrics and set(metrics).isdisjoint(("rouge", "similarity", "exact")):
        metrics.append("answers")
    length = e.max_new_tokens if e.generates or trial.mode == "icl" else None
    more = [[m, METRIC_VERSIONS[m]] for m in metrics if m in METRIC_VERSIONS]
    if "similarity" in metrics:
        more.append(["encoder", problem.keys.encoder])
    model = _shown_key(problem, trial) if trial.mode == "icl" else trial.cell.key
    return digest(["evaluate", VERSION, model, template, metrics, length, contents, *more])


def _shown_key(problem: Problem, trial: Trial) -> str:
    """Identity of the student with examples out of a subset, whose order does not count."""
    config = problem.config
    contents = np.unique(problem.pool.content_ids[trial.cell.rows]).tolist()
    k = config.evaluation.icl_examples
    return digest(["icl", ICL_VERSION, student_key(config), contents, k, problem.keys.encoders])


def judged_key(problem: Problem, trial: Trial) -> str | None:
    """Identity of a judge's grades of a trial's answers; None without a judge."""
    e = problem.config.evaluation
    if "judge" not in e.metrics or e.judge is None:
        return None
    judge = judge_key(e.judge, problem.config.base_dir)
    return digest(["judged", JUDGE_VERSION, answers_key(problem, trial), judge])


def evaluation_key(problem: Problem, trial: Trial) -> str:
    """Identity of all scores of a trial."""
    return judged_key(problem, trial) or answers_key(problem, trial)


def is_answered(problem: Problem, trial: Trial) -> bool:
    """Whether what the model itself is asked for is there, whole."""
    path = problem.ws.evaluation_file(answers_key(problem, trial))
    return intact(problem.ws, problem.ws.relative(path))


def is_judged(problem: Problem, trial: Trial) -> bool:
    """Whether a judge's grades of a trial are there, whole, though some may have failed; true without one."""
    key = judged_key(problem, trial)
    return key is None or intact(problem.ws, problem.ws.relative(problem.ws.evaluation_file(key)))


def is_evaluated(problem: Problem, trial: Trial) -> bool:
    """Whether a trial's scores are there, whole: `read_scores` can read them."""
    return is_answered(problem, trial) and is_judged(problem, trial)


def is_complete(problem: Problem, trial: Trial) -> bool:
    """Whether nothing is left to do for a trial: grades that failed to come are asked for once more."""
    return is_answered(problem, trial) and _all_graded(problem, trial)


def _all_graded(problem: Problem, trial: Trial) -> bool:
    key = judged_key(problem, trial)
    if key is None:
        return True
    manifest = read_manifest(problem.ws.evaluation_file(key))
    return is_judged(problem, trial) and manifest is not None and not manifest.meta["judge_failed"]


def count_scores(problem: Problem, trial: Trial) -> tuple[int, int]:
    """Scores of a trial, one for each distinct held-out text and metric asked for: all, and missing ones."""
    rows = len(HeldOutRows.of(problem).contents)
    own, judge = len(model_metrics(problem.config)), int("judge" in problem.config.evaluation.metrics)
    if not is_answered(problem, trial):
        return rows * (own + judge), rows * (own + judge)
    return rows * (own + judge), 0 if _all_graded(problem, trial) else rows * judge
