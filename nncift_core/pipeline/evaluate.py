"""Held-out rows under every trial of a comparison: the work of one trial, and its published scores."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nncift_core.encoders import Encoder, example_text, prefix_of
from nncift_core.evaluation import RowScores, nearest, prompt_groups, score_rows, with_examples
from nncift_core.finetune import load_fine_tuned, load_student, settings, student_key
from nncift_core.finetune.rows import naming_template
from nncift_core.hashing import digest
from nncift_core.language_models import LanguageModel
from nncift_core.pipeline.downstream import trained_weights
from nncift_core.pipeline.embed import PIECE
from nncift_core.pipeline.evaluation_tables import comparison_table, evaluation_rows_table, evaluation_table
from nncift_core.pipeline.judging import judge_facts, judge_trial
from nncift_core.pipeline.problem import Problem
from nncift_core.pipeline.scored import Scored, read_scores, score_files
from nncift_core.pipeline.trials import (
    HeldOutRows,
    Mode,
    Trial,
    answers_key,
    check_evaluation,
    count_scores,
    evaluation_key,
    held_out_texts,
    is_answered,
    is_complete,
    is_evaluated,
    model_metrics,
    needs_encoder,
    trials,
)
from nncift_core.store.files import publish
from nncift_core.store.vectors import VectorStore

__all__ = [
    "HeldOutRows",
    "Mode",
    "Scored",
    "Trial",
    "check_evaluation",
    "comparison_table",
    "count_scores",
    "evaluate_trial",
    "evaluation_key",
    "evaluation_rows_table",
    "evaluation_table",
    "is_complete",
    "is_evaluated",
    "judge_facts",
    "needs_encoder",
    "overlap",
    "read_scores",
    "score_files",
    "trials",
]

Int64 = npt.NDArray[np.int64]
Progress = Callable[[int], None]
# Loading sets the process's default dtype for a moment: two threads must not.
_LOADING = threading.Lock()


def overlap(problem: Problem) -> dict[str, int]:
    """Held-out rows whose text is also in the pool, or among the rows valued against."""
    rows = HeldOutRows.of(problem)
    return {
        "test_rows": len(rows.content_ids),
        "test_rows_repeated": len(rows.content_ids) - len(np.unique(rows.content_ids)),
        "test_rows_in_pool": int(np.isin(rows.content_ids, problem.pool.content_ids).sum()),
        "test_rows_in_target": int(np.isin(rows.content_ids, problem.target_contents).sum()),
    }


def evaluate_trial(
    problem: Problem,
    trial: Trial,
    device: str,
    encoder: Encoder | None,
    progress: Progress | None = None,
) -> int:
    """Score the held-out rows in one trial and publish what was missing; returns the number of scores made,
    one for each distinct text and metric asked for.

    encoder: the job's, where `needs_encoder`; progress(n): n more scores are there, 0 as a sign of life. The
    model is gone before a judge is asked: grades need the stored answers alone.
    """
    made = 0
    if not is_answered(problem, trial):
        made += _ask_model(problem, trial, device, encoder, progress)
    if not is_complete(problem, trial):
        made += judge_trial(problem, trial, progress)
    return made


def _ask_model(
    problem: Problem, trial: Trial, device: str, encoder: Encoder | None, progress: Progress | None
) -> int:
    config, ws, e = problem.config, problem.ws, problem.config.evaluation
    contents = HeldOutRows.of(problem).contents
    with _LOADING:
        model, parents = _load(problem, trial, device)
    prompts, counts = None, dict[str, int]()
    if trial.mode == "icl":
        prompts, counts = _prompts_in_context(problem, trial, model, encoder, contents, progress)
    scores = score_rows(
        model,
        held_out_texts(problem, contents),
        settings(config).template,
        model_metrics(config),
        max_new_tokens=e.max_new_tokens,
        batch_tokens=e.batch_tokens,
        answers="judge" in e.metrics,
        encoder=encoder,
        prefix=prefix_of(config.encoder, "row"),
        prompts=prompts,
        progress=progress,
    )
    table = _scores_table(contents, scores)
    publish(
        ws.root,
        ws.evaluation_file(answers_key(problem, trial)),
        lambda part: pq.write_table(table, part, compression="zstd"),
        kind="evaluation-scores",
        key=answers_key(problem, trial),
        rows=len(table),
        producer="evaluate",
        parents=(*parents, *(d.ref.path for d in problem.of_role("test"))),
        meta=scores.counts | counts,
    )
    return len(contents) * len(model_metrics(config))


def _load(problem: Problem, trial: Trial, device: str) -> tuple[LanguageModel, tuple[str, ...]]:
    """The trial's model, and what it was made from."""
    config, ws = problem.config, problem.ws
    if trial.mode != "finetune":
        model = load_student(config, device)
        pool = (problem.pool.ref.path,) if trial.mode == "icl" else ()
        return model, (f"model:{student_key(config)}", *pool)
    weights = trained_weights(ws, trial.cell.key)
    return load_fine_tuned(config, weights.parent, device), (ws.relative(weights),)


def _prompts_in_context(
    problem: Problem,
    trial: Trial,
    model: LanguageModel,
    encoder: Encoder | None,
    contents: Int64,
    progress: Progress | None,
) -> tuple[list[list[int]], dict[str, int]]:
    """Ids of the prompts of held-out `contents` [n] behind their most similar examples of the subset.

    Similar by the cosine of a pool row's embedding, prompt and response, with that of the held-out prompt
    alone: its reference must not choose the examples. Nor must an example show it: a row with the held-out
    prompt (as `prompt_groups` compares them), whatever its response, is no example, in any subset.

    Counts: icl_examples_dropped (for want of room), icl_rows_bare (held-out rows without any example),
    icl_rows_shown_themselves (rows of the subset excluded for having the prompt, over all held-out rows),
    icl_prompts_cut (longer than the encoder reads).
    """
    if encoder is None:
        raise ValueError("examples in context need an encoder")
    config, e = problem.config, problem.config.evaluation
    candidates = np.unique(problem.pool.content_ids[trial.cell.rows])
    vectors = _row_vectors(problem, encoder, candidates, progress)
    prompts = held_out_texts(problem, contents).prompts
    before = encoder.truncated
    queries = _prompt_vectors(problem, encoder, contents, prompts, progress)
    cut = encoder.truncated - before
    texts = problem.pool.texts(candidates)
    own, theirs = prompt_groups(prompts, texts.prompts)
    chosen = nearest(queries, vectors, e.icl_examples, (own, theirs), progress)
    pairs = list(zip(texts.prompts, texts.responses, strict=True))
    examples = [[pairs[k] for k in some if k >= 0] for some in chosen.tolist()]
    with naming_template():
        shown = with_examples(model, prompts, examples, settings(config).template, e.max_new_tokens, progress)
    of_group = np.bincount(theirs, minlength=int(own.max(initial=-1)) + 1)
    return shown.prompts, {
        "icl_examples_dropped": shown.dropped,
        "icl_rows_bare": shown.bare + sum(not some for some in examples),
        "icl_rows_shown_themselves": int(of_group[own].sum()),
        "icl_prompts_cut": cut,
    }


def _row_vectors(
    problem: Problem, encoder: Encoder, contents: Int64, progress: Progress | None
) -> npt.NDArray[np.float32]:
    """Embeddings [k, d] of pool rows; those that no stage has made yet are stored for all."""
    store = problem.vectors("row")
    store.refresh()
    prefix = prefix_of(problem.config.encoder, "row")
    for piece in _pieces(store.missing(contents)):
        rows, before = problem.pool.texts(piece), encoder.truncated
        texts = [example_text(p, r) for p, r in zip(rows.prompts, rows.responses, strict=True)]
        found = encoder.embed(texts, _alive(progress), prefix)
        store.write(piece, found, problem.valued, {"truncated_texts": encoder.truncated - before})
    return store.load(contents)


def _pieces(contents: Int64) -> list[Int64]:
    """`contents` in pieces that are written one by one: a killed trial keeps those it has."""
    return [contents[start : start + PIECE] for start in range(0, len(contents), PIECE)]


def _alive(progress: Progress | None) -> Progress | None:
    """`progress` without its count: vectors are no scores, but a worker silent for long is ended."""
    return None if progress is None else lambda _: progress(0)


def _prompt_vectors(
    problem: Problem,
    encoder: Encoder,
    contents: Int64,
    prompts: tuple[str, ...],
    progress: Progress | None,
) -> npt.NDArray[np.float32]:
    """Embeddings [n, d] of held-out prompts without their responses, stored for the next trial."""
    store = VectorStore(problem.ws, digest([problem.keys.encoders[-1], "prompt"]))
    text = dict(zip(contents.tolist(), prompts, strict=True))
    prefix = prefix_of(problem.config.encoder, "column")
    parents = tuple(d.ref.path for d in problem.of_role("test"))
    for piece in _pieces(store.missing(contents)):
        found = encoder.embed([text[c] for c in piece.tolist()], _alive(progress), prefix)
        store.write(piece, found, parents)
    return store.load(contents)


def _scores_table(contents: Int64, scores: RowScores) -> pa.Table:
    generated = scores.generated if scores.generated is not None else [None] * len(contents)
    columns: dict[str, Any] = {"content_id": pa.array(contents), **scores.values}
    return pa.table({**columns, "generated": pa.array(list(generated), pa.large_string())})
