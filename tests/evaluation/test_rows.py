"""Scores of a model on held-out rows."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nncift_core.config import LanguageModelConfig
from nncift_core.errors import RunError, UserError
from nncift_core.evaluation import (
    GIVES,
    METRICS,
    HeldOut,
    RowScores,
    response_losses,
    rouge_scores,
    score_rows,
)
from nncift_core.language_models import LanguageModel, load_language_model

ORACLES = Path(__file__).parents[1] / "data" / "oracles"
TEMPLATE = "Instruction: {prompt}\nResponse: "


def load() -> LanguageModel:
    return load_language_model(LanguageModelConfig(model=str(ORACLES / "tiny-lm")), "cpu")


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return load()


@pytest.fixture(scope="module")
def rows() -> HeldOut:
    lines = (ORACLES / "examples.jsonl").read_text(encoding="utf-8").splitlines()[:12]
    read = [json.loads(line) for line in lines]
    return HeldOut(tuple(r["prompt"] for r in read), tuple(r["response"] for r in read))


def score(model: LanguageModel, rows: HeldOut, *metrics: str, batch_tokens: int = 2048) -> RowScores:
    return score_rows(model, rows, TEMPLATE, metrics, max_new_tokens=12, batch_tokens=batch_tokens)


def expected_loss(model: LanguageModel, prompt: str, response: str) -> float:
    """The library's own cross-entropy with the prompt masked, one sequence at a time."""
    before = model.tokenizer(TEMPLATE.replace("{prompt}", prompt), add_special_tokens=False)["input_ids"]
    after = [*model.tokenizer(response, add_special_tokens=False)["input_ids"], model.eos_id]
    labels = torch.tensor([[-100] * len(before) + after])
    with torch.inference_mode():
        return float(model.model(input_ids=torch.tensor([before + after]), labels=labels).loss)


def test_loss_equals_a_one_sequence_forward_pass(model: LanguageModel, rows: HeldOut) -> None:
    found = score(model, rows, "loss")
    expected = [expected_loss(model, p, r) for p, r in zip(rows.prompts, rows.responses, strict=True)]
    np.testing.assert_allclose(found.values["loss"], expected, rtol=1e-5)
    assert np.ptp(expected) > 0.1
    assert found.generated is None and found.counts == {"truncated_rows": 0}
    assert found.values["loss"].dtype == np.float64


def test_the_end_of_sequence_counts_and_braces_in_prompts_stay(model: LanguageModel) -> None:
    rows = HeldOut(("{prompt} {x} {}", "b"), ("", "yes"))
    found = score(model, rows, "loss").values["loss"]
    assert found[0] == pytest.approx(expected_loss(model, "{prompt} {x} {}", ""), rel=1e-5)


def test_batches_change_nothing(model: LanguageModel, rows: HeldOut) -> None:
    together, alone = score(model, rows, "loss", "rouge"), score(model, rows, "loss", "rouge", batch_tokens=1)
    np.testing.assert_allclose(together.values["loss"], alone.values["loss"], rtol=1e-5)
    assert together.generated == alone.generated and together.counts == alone.counts


def test_rouge_scores_the_greedy_answers(model: LanguageModel, rows: HeldOut) -> None:
    rows = HeldOut((*rows.prompts[:4], "x", "y"), (*rows.responses[:4], "日本", "word " * 600))
    found = score(model, rows, "rouge")
    assert found.generated is not None and len(found.generated) == 6 and len(set(found.generated)) > 2
    expected = rouge_scores(rows.responses, found.generated)
    assert found.values["rouge1"].tolist() == expected.rouge1.tolist()
    assert found.values["rougeL"].tolist() == expected.rougeL.tolist()
    assert found.counts["empty_references"] == found.counts["rouge_clipped"] == 1
    assert found.counts["truncated_prompts"] == 0 and found.counts["unfinished_answers"] > 0


def test_every_value_has_its_metric(model: LanguageModel, rows: HeldOut) -> None:
    found = score(model, rows, "loss", "rouge")
    assert list(found.values) == list(METRICS)[:3] == ["loss", "rouge1", "rougeL"]
    assert [name for given in GIVES.values() for name in given] == list(METRICS)
    assert [name for name, m in METRICS.items() if not m.higher_is_better] == ["loss"]


def test_rows_too_long_for_the_context_are_cut_and_counted(model: LanguageModel, rows: HeldOut) -> None:
    short = dataclasses.replace(model, context_length=60)
    rows = HeldOut(("word " * 100, "a"), ("yes it is", "no"))
    found = score(short, rows, "loss", "rouge")
    assert (found.counts["truncated_rows"], found.counts["truncated_prompts"]) == (1, 1)
    ids = model.tokenize([TEMPLATE.replace("{prompt}", rows.prompts[0])])[0]
    response = [*model.tokenize(["yes it is"])[0], model.eos_id]
    log_probs = model.response_log_probs([ids[len(response) - 60 :]], [response])[0]
    assert found.values["loss"][0] == pytest.approx(-log_probs.mean(), rel=1e-5)


def test_hostile_rows(model: LanguageModel) -> None:
    texts = ("y" * 200_000, "\x00\x1b[2J\u202e{prompt}", "<|endoftext|>" * 5, "")
    found = score(model, HeldOut(texts, texts), "loss", "rouge")
    assert all(np.isfinite(values).all() for values in found.values.values())
    assert found.counts["truncated_rows"] == 1


def test_progress_counts_every_row_once_a_metric(model: LanguageModel, rows: HeldOut) -> None:
    done: list[int] = []
    score_rows(
        model,
        rows,
        TEMPLATE,
        ["loss", "rouge"],
        max_new_tokens=4,
        batch_tokens=512,
        progress=lambda n: done.append(n),
    )
    assert sum(done) == 2 * len(rows) and len(done) > 4


def test_what_counts_no_rows_gives_signs_of_life(model: LanguageModel, rows: HeldOut) -> None:
    class Encoder:
        truncated = 0

        def embed(self, texts: Any, progress: Any = None, prefix: str = "") -> Any:
            for _ in texts:
                progress(1)
            return np.ones((len(texts), 1), np.float32)

    n, done = len(rows), list[int]()
    how: dict[str, Any] = {"max_new_tokens": 1, "batch_tokens": 1, "progress": done.append}
    score_rows(model, rows, TEMPLATE, [], answers=True, **how)
    assert done == [0] * n
    done.clear()
    found = score_rows(model, rows, TEMPLATE, ["rouge", "similarity"], encoder=Encoder(), **how)
    texts = len({*rows.responses, *(found.generated or ())})
    assert done == [1] * n + [0] * n + [0] * texts + [n]


def test_no_rows(model: LanguageModel) -> None:
    found = score(model, HeldOut((), ()), "loss", "rouge")
    assert [len(v) for v in found.values.values()] == [0, 0, 0] and found.generated == ()


def test_a_loss_that_is_no_number_is_an_error(rows: HeldOut) -> None:
    broken = load()
    with torch.no_grad():
        broken.model.get_output_embeddings().weight[5, 0] = float("nan")
    with pytest.raises(RunError, match="not a finite number"):
        response_losses(broken, rows, TEMPLATE, 2048)


def test_what_cannot_be_scored_is_refused(model: LanguageModel, rows: HeldOut) -> None:
    with pytest.raises(ValueError, match="unknown metric 'bleu'"):
        score(model, rows, "loss", "bleu")
    with pytest.raises(ValueError, match="1 prompts but 2 responses"):
        HeldOut(("a",), ("b", "c"))
    with pytest.raises(UserError, match=r"finetune\.template"):
        score_rows(model, HeldOut(("",), ("b",)), "{prompt}", ["loss"], max_new_tokens=1, batch_tokens=64)


def test_importing_loads_no_model_library() -> None:
    code = (
        "import sys, nncift_core.evaluation\n"
        "print(sorted({'torch', 'transformers', 'rouge_score', 'nltk', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
