"""The published scores of a trial, as they are read again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nncift_core.evaluation import METRICS
from nncift_core.pipeline.problem import Problem
from nncift_core.pipeline.trials import HeldOutRows, Trial, answers_key, judged_key

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scored:
    """A trial's scores on every held-out row: metric -> [n], NaN where a row has none; its answers [n];
    paths: the files they come from."""

    trial: Trial
    values: dict[str, Float64]
    generated: list[str | None]
    paths: tuple[str, ...]


def score_files(problem: Problem, trial: Trial) -> tuple[str, ...]:
    """Relative paths of the files of a trial's scores: the model's own and, with a judge, its grades."""
    keys = [answers_key(problem, trial), judged_key(problem, trial)]
    return tuple(problem.ws.relative(problem.ws.evaluation_file(key)) for key in keys if key is not None)


def read_scores(problem: Problem, trial: Trial) -> Scored:
    """The published scores of one trial, spread from texts to rows."""
    contents, paths = HeldOutRows.of(problem).content_ids, score_files(problem, trial)
    values: dict[str, Float64] = {}
    generated: list[str | None] = []
    for path in paths:
        table = pq.read_table(problem.ws.root / path)
        at = np.searchsorted(table["content_id"].to_numpy(), contents)
        values |= {m: table[m].to_numpy()[at] for m in table.column_names if m in METRICS}
        if "generated" in table.column_names:
            generated = table["generated"].take(pa.array(at)).to_pylist()
    return Scored(trial, values, generated, paths)
