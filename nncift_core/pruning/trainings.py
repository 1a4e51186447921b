"""The trainings of a prune job: those that scores are made of, and those that subsets are judged by.

Each is kept under the identity of what decides its result, so that no model is trained twice, whichever
score, study or later run asks for it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nncift_core.classification.contract import Float64, Int64, Run
from nncift_core.classification.frozen import train_head
from nncift_core.config_prune import TrainingConfig
from nncift_core.encoders import encoder_folder
from nncift_core.hashing import digest
from nncift_core.pruning.job import VERSION
from nncift_core.pruning.keys import LOOKS, read_settings
from nncift_core.pruning.problem import LabelSet, PruneProblem, Texts
from nncift_core.scores.catalogue import CATALOGUE
from nncift_core.store.classifiers import Kept, read_subset

Progress = Callable[[int], None]


@dataclass(frozen=True)
class ScoreCell:
    """A training whose dynamics are kept: on all rows under a label set; seed: its number.

    gradients: whether checkpoints and gradient scores are kept too.
    """

    labels: LabelSet
    seed: int
    gradients: bool


@dataclass(frozen=True)
class PointCell:
    """A training on a subset, evaluated on the test rows. subset: its name in the file of subsets."""

    key: str
    labels: LabelSet
    subset: str
    seed: int


def score_key(problem: PruneProblem, cell: ScoreCell) -> str:
    """Identity of a score cell."""
    t, s = problem.config.training, problem.config.scores
    asked = sorted(n for n in s.names if CATALOGUE[n].needs == "gradients") if cell.gradients else []
    null = s.pvi_epochs if "pvi" in s.names else 0
    # Checkpoints are kept for gradients alone.
    looks = t.model_dump(mode="json", include=set(LOOKS if cell.gradients else LOOKS - {"checkpoints"}))
    rows, drawn = problem.rows_digests(cell.labels), seed_of_score(problem, cell)
    return digest(["score", VERSION, _settings(problem), looks, drawn, asked, null, *rows])


def point_key(problem: PruneProblem, labels: LabelSet, rows: Int64, seed: int) -> str:
    """Identity of a training on the rows at positions `rows` and of its evaluation."""
    test = next(ref.version for ref in problem.refs if ref.role == "test")
    tail = [problem.classes[k] for k in problem.tail]
    drawn = problem.seed_of("training", seed)
    told = problem.rows_digests(labels, rows)
    return digest(["point", VERSION, _settings(problem), drawn, test, tail, *told])


def seed_of_score(problem: PruneProblem, cell: ScoreCell) -> int:
    """The seed of a score cell's training."""
    return problem.seed_of("score", cell.seed)


def _settings(problem: PruneProblem) -> list[Any]:
    settings = read_settings(problem.config.training, looks=False)
    return [settings, problem.model_key, list(problem.classes)]


def kept_score(problem: PruneProblem, cell: ScoreCell) -> Kept:
    """The folder of a score cell."""
    return Kept(problem.ws, score_key(problem, cell), problem.parents)


def kept_point(problem: PruneProblem, key: str) -> Kept:
    """The folder of a point."""
    return Kept(problem.ws, key, problem.parents)


def train_score(problem: PruneProblem, cell: ScoreCell, device: str, progress: Progress | None) -> None:
    """Train a score cell and keep what scores need of it."""
    kept, labels = kept_score(problem, cell), problem.labels_of(cell.labels)
    seed = seed_of_score(problem, cell)
    settings = problem.config.training
    count = settings.checkpoints if cell.gradients else 0
    with tempfile.TemporaryDirectory(dir=problem.ws.tmp_dir) as scratch:
        run = _train(
            problem, np.arange(len(labels)), labels, settings, seed=seed, device=device, log=True,
            checkpoints=count, scratch=Path(scratch), progress=progress,
        )  # fmt: skip
        assert run.dynamics is not None
        files = [kept.write_dynamics(run.dynamics, problem.train.example_ids)]
        if run.logits is not None:
            files.append(kept.write_arrays("logits", {"logits": run.logits}, {"classes": problem.classes}))
        if cell.gradients:
            files.append(kept.write_checkpoints(run.checkpoints))
            found = _gradients(problem, run, labels, Path(scratch), device, progress)
            files.append(kept.write_arrays("gradients", found, {}))
    null = _null(problem, labels, seed, device, progress) if "pvi" in problem.config.scores.names else None
    result = {"null_log_probability": null, "labels": cell.labels.name, "seed": cell.seed}
    kept.finish({**result, "facts": dict(run.facts)}, files)


def train_point(
    problem: PruneProblem, cell: PointCell, subsets: str, device: str, progress: Progress | None
) -> None:
    """Train on a subset and keep how the model does on the test rows."""
    rows = read_subset(problem.ws, subsets, cell.subset)
    labels = problem.labels_of(cell.labels)[rows]
    with tempfile.TemporaryDirectory(dir=problem.ws.tmp_dir) as scratch:
        run = _train(
            problem, rows, labels, problem.config.training, seed=problem.seed_of("training", cell.seed),
            device=device, evaluate=True,
            scratch=Path(scratch), progress=progress,
        )  # fmt: skip
    found = run.predictions["test"]
    kept_point(problem, cell.key).finish(
        {"n_train": len(rows), **_measures(problem, found.predicted, found.probabilities)}
    )


def _train(
    problem: PruneProblem,
    rows: Int64,
    labels: Int64,
    settings: TrainingConfig,
    *,
    seed: int,
    device: str,
    scratch: Path,
    log: bool = False,
    checkpoints: int = 0,
    evaluate: bool = False,
    progress: Progress | None = None,
) -> Run:
    """One training on the rows at positions `rows` [n], ascending, with labels [n], in the job's mode."""
    k = len(problem.classes)
    if settings.mode == "frozen":
        held_out = {"test": problem.features("test")} if evaluate else None
        x = problem.features("train")
        x = x if len(rows) == len(x) else x[rows]
        return train_head(
            x, labels, k, settings, seed=seed, device=device, log=log, checkpoints=checkpoints,
            evaluate=held_out, progress=progress,
        )  # fmt: skip
    from nncift_core.classification.full import train_encoder

    texts = _taken(problem.texts("train"), rows)
    test = problem.texts("test") if evaluate else None
    return train_encoder(
        encoder_folder(problem.config.encoder, problem.config.base_dir), texts.texts, texts.pairs, labels, k,
        settings, seed=seed, device=device, log=log, checkpoints=checkpoints, weights_dir=scratch,
        evaluate={"test": (test.texts, test.pairs)} if test is not None else None, progress=progress,
        trust_remote_code=problem.config.encoder.trust_remote_code,
    )  # fmt: skip


def _taken(texts: Texts, rows: Int64) -> Texts:
    at = rows.tolist()
    pairs = None if texts.pairs is None else tuple(texts.pairs[i] for i in at)
    return Texts(tuple(texts.texts[i] for i in at), pairs)


def _gradients(
    problem: PruneProblem,
    run: Run,
    labels: Int64,
    scratch: Path,
    device: str,
    progress: Progress | None,
) -> dict[str, Float64]:
    """Gradient scores [N] that the job asks for, by name."""
    names = [n for n in problem.config.scores.names if CATALOGUE[n].needs == "gradients"]
    if problem.config.training.mode == "frozen":
        from nncift_core.scores.head_gradients import head_gradient_scores

        x = problem.features("train")
        return head_gradient_scores(run.checkpoints, x, labels, names, device=device, progress=progress)
    from nncift_core.scores.encoder_gradients import encoder_gradient_scores

    texts, config = problem.texts("train"), problem.config
    return encoder_gradient_scores(
        encoder_folder(config.encoder, config.base_dir), scratch, run.checkpoints, texts.texts, texts.pairs,
        labels, names, config.training, device=device, progress=progress,
        trust_remote_code=config.encoder.trust_remote_code,
    )  # fmt: skip


def _null(
    problem: PruneProblem, labels: Int64, seed: int, device: str, progress: Progress | None
) -> list[float]:
    """ln of the class probabilities [K] of a model that was trained on empty inputs, as long as PVI reads."""
    settings = problem.config.training.model_copy(update={"epochs": problem.config.scores.pvi_epochs})
    n, k = len(labels), len(problem.classes)
    if settings.mode == "frozen":
        empty = problem.empty_features()
        x = np.broadcast_to(empty, (n, empty.shape[1]))
        run = train_head(
            x, labels, k, settings, seed=seed, device=device, evaluate={"empty": empty}, progress=progress
        )
    else:
        from nncift_core.classification.full import train_encoder

        blank = ("",)
        run = train_encoder(
            encoder_folder(problem.config.encoder, problem.config.base_dir), blank * n,
            blank * n if problem.paired else None, labels, k, settings, seed=seed, device=device,
            evaluate={"empty": (blank, blank if problem.paired else None)}, progress=progress,
            trust_remote_code=problem.config.encoder.trust_remote_code,
        )  # fmt: skip
    found = run.predictions["empty"].probabilities[0].astype(np.float64)
    log_p: list[float] = np.log(np.maximum(found, np.finfo(np.float32).tiny)).tolist()
    return log_p


def _measures(problem: PruneProblem, guessed: Int64, probabilities: Any) -> dict[str, Any]:
    """Accuracy in all and by class and group, mean accuracy over classes, mean -ln p of the right class."""
    right = problem.given_labels("test")
    hit = guessed == right
    p = np.maximum(probabilities[np.arange(len(right)), right].astype(np.float64), np.finfo(np.float32).tiny)
    counts = np.bincount(right, minlength=len(problem.classes))
    hits = np.bincount(right, weights=hit, minlength=len(problem.classes)).astype(int)
    per_class = {problem.classes[k]: [int(hits[k]), int(n)] for k, n in enumerate(counts) if n}
    groups: dict[str, list[int]] = {}
    for group, ok in zip(problem.groups("test"), hit.tolist(), strict=True):
        if group is not None:
            one = groups.setdefault(group, [0, 0])
            one[0], one[1] = one[0] + int(ok), one[1] + 1
    rare = np.isin(right, problem.tail)
    return {
        "accuracy": float(hit.mean()),
        "macro_accuracy": float(np.mean([a / b for a, b in per_class.values()])),
        "log_loss": float(-np.log(p).mean()),
        "per_class": per_class,
        "per_group": groups,
        "tail": [int(hit[rare].sum()), int(rare.sum())],
        "n_test": len(right),
        "right": np.packbits(hit).tobytes().hex(),
    }
