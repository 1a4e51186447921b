"""Training: the adapter, what decides it, what is returned and written."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetune.small import PAIRS, ROWS, TINY, Trained, gap, job, rows_of, same, tuned

from nncift_core.config import Config
from nncift_core.errors import UserError
from nncift_core.finetune import Diverged, encode, fine_tune, load_fine_tuned, load_student
from nncift_core.finetune.loop import Place, train
from nncift_core.finetune.methods import with_adapters
from nncift_core.hashing import int63
from nncift_core.language_models import LanguageModel
from nncift_core.sequences import fill


def reference(model: LanguageModel, config: Config, seed: int) -> Any:
    """The adapters by a plain loop: every step sees all rows, one at a time."""
    own = config.finetune
    assert own is not None
    adapted = with_adapters(model.model, own, int63(f"fine-tune\x1f{seed}") % 2**32).train()
    learned = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=own.learning_rate, weight_decay=own.weight_decay)
    warm = 2
    for step in range(own.epochs):
        factor = step / warm if step < warm else (own.epochs - step) / (own.epochs - warm)
        optimizer.param_groups[0]["lr"] = own.learning_rate * factor
        total, count = torch.zeros(()), 0
        for prompt, response in PAIRS:
            before = model.tokenize([fill(own.template, prompt=prompt)])[0]
            after = [*model.tokenize([response])[0], model.eos_id]
            log_p = torch.log_softmax(adapted(input_ids=torch.tensor([before + after])).logits[0], dim=-1)
            total = total - sum(log_p[len(before) + t - 1, y] for t, y in enumerate(after))
            count += len(after)
        (total / count).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return adapted.eval()


def test_the_adapter_is_that_of_a_plain_loop_and_predicts_the_same_when_loaded(tmp_path: Path) -> None:
    config = job(epochs=6, batch_size=16, batch_tokens=600, warmup=0.34, weight_decay=0.1, alpha=8)
    _, found = tuned(tmp_path / "a", config, seed=2**40)
    plain = load_student(config, "cpu")
    adapted = reference(plain, config, seed=2**40)
    theirs = {k.replace(".default", ""): p.detach() for k, p in adapted.named_parameters() if p.requires_grad}
    assert max(float(p.abs().max()) for k, p in found.items() if "lora_B" in k) > 1e-3
    assert gap(found, theirs) < 1e-4

    loaded = load_fine_tuned(config, tmp_path / "a", "cpu")
    prompts, responses = plain.tokenize(["Name a colour.", "2 + 2 ="]), plain.tokenize(["red and blue", "4"])
    here = loaded.response_log_probs(prompts, responses)
    there = replace(plain, model=adapted).response_log_probs(prompts, responses)
    base = load_student(config, "cpu").response_log_probs(prompts, responses)
    for a, b, c in zip(here, there, base, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)
        assert np.abs(a - c).max() > 1e-2


def test_training_lowers_the_loss_of_its_own_rows(tmp_path: Path, tiny: LanguageModel) -> None:
    done, _ = tuned(tmp_path / "a", job(epochs=6))
    encoded = encode(tiny, ROWS, job().finetune.template)  # type: ignore[union-attr]
    prompts = [s[:n] for s, n in zip(encoded.sequences, encoded.n_prompt, strict=True)]
    responses = [s[n:] for s, n in zip(encoded.sequences, encoded.n_prompt, strict=True)]

    def loss(model: LanguageModel) -> float:
        return -float(np.concatenate(model.response_log_probs(prompts, responses)).mean())

    before, after = loss(tiny), loss(load_fine_tuned(job(), tmp_path / "a", "cpu"))
    assert after < before - 0.1
    assert done.losses[0] < before + 0.1 and after < done.losses[-1] + 0.05
    assert list(done.losses) == sorted(done.losses, reverse=True)
    assert (done.rows, done.steps, len(done.losses)) == (10, 18, 6)
    assert (done.tokens, done.response_tokens, done.truncated) == (encoded.tokens, encoded.response_tokens, 0)


def test_the_first_epochs_loss_is_the_mean_over_tokens_not_over_batches(
    tmp_path: Path, tiny: LanguageModel
) -> None:
    done, _ = tuned(tmp_path / "a", job(epochs=1, learning_rate=1e-12))
    encoded = encode(tiny, ROWS, job().finetune.template)  # type: ignore[union-attr]
    values = tiny.response_log_probs(
        [s[:n] for s, n in zip(encoded.sequences, encoded.n_prompt, strict=True)],
        [s[n:] for s, n in zip(encoded.sequences, encoded.n_prompt, strict=True)],
    )
    assert done.losses[0] == pytest.approx(-float(np.concatenate(values).mean()), abs=1e-5)


def random_state() -> tuple[Any, ...]:
    arrays: Any = np.random.get_state()
    return random.getstate(), arrays[1].tolist(), arrays[2], torch.get_rng_state().tolist()


def test_two_calls_are_bit_equal_quiet_and_leave_the_random_state(
    trained: Trained,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    before = random_state()
    steps: list[tuple[int, int]] = []
    done, weights = tuned(tmp_path / "a", progress=lambda a, b: steps.append((a, b)))
    assert random_state() == before
    assert same(weights, trained[1]) and done == trained[0]
    assert steps == [(k, 6) for k in range(1, 7)]
    assert capfd.readouterr() == ("", "")


def test_the_order_of_rows_does_not_matter_and_the_seed_does(trained: Trained, tmp_path: Path) -> None:
    assert same(tuned(tmp_path / "a", rows=rows_of(PAIRS[::-1]))[1], trained[1])
    assert gap(tuned(tmp_path / "b", seed=1)[1], trained[1]) > 1e-3


def test_micro_batches_do_not_matter(trained: Trained, tmp_path: Path) -> None:
    done, weights = tuned(tmp_path / "a", job(batch_tokens=64))
    assert gap(weights, trained[1]) < 1e-4
    assert done.losses == pytest.approx(trained[0].losses, abs=1e-5) and done.steps == trained[0].steps


def test_copies_of_a_row_stay(tmp_path: Path) -> None:
    done, _ = tuned(tmp_path / "a", rows=rows_of(PAIRS[:2] * 3))
    assert (done.rows, done.steps) == (6, 4)


def test_low_precision_students_train_float32_adapters(tmp_path: Path) -> None:
    done, weights = tuned(tmp_path / "a", job(model=str(TINY), dtype="bfloat16"))
    assert {p.dtype for p in weights.values()} == {torch.float32}
    assert done.losses[1] < done.losses[0]
    loaded = load_fine_tuned(job(model=str(TINY), dtype="bfloat16"), tmp_path / "a", "cpu")
    assert {p.dtype for n, p in loaded.model.named_parameters() if "lora" not in n} == {torch.bfloat16}


def test_the_scale_that_keeps_float16_gradients_alive_changes_no_update() -> None:
    config = job(learning_rate=1e-3)
    own = config.finetune
    assert own is not None
    found = []
    for float16 in (False, True):
        model = load_student(config, "cpu")
        adapted = with_adapters(model.model, own, 1)
        train(replace(model, model=adapted), own, encode(model, ROWS, own.template), 1, Place(float16))
        found.append({n: p.detach() for n, p in adapted.named_parameters() if p.requires_grad})
    assert gap(*found) < 1e-6


def test_the_folder_holds_adapter_and_tokenizer_and_no_machine_path(
    trained: Trained,
) -> None:
    done, weights, folder = trained
    assert sorted(p.name for p in folder.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    for path in folder.glob("*.json"):
        assert str(TINY.parent) not in path.read_text(encoding="utf-8"), path.name
    text = (folder / "adapter_config.json").read_text(encoding="utf-8")
    shape = json.loads(text)
    assert shape["base_model_name_or_path"] == "tiny-lm" and str(TINY.parent) not in text
    linear = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert shape["target_modules"] == sorted(shape["target_modules"])
    assert {name.split(".")[-1] for name in shape["target_modules"]} == linear
    assert sum(p.numel() for p in weights.values()) == done.trainable_parameters


def test_the_folder_must_be_there_and_empty(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="empty folder"):
        fine_tune(job(), ROWS, 0, "cpu", tmp_path / "absent")
    (tmp_path / "x").write_text("")
    with pytest.raises(ValueError, match="empty folder"):
        fine_tune(job(), ROWS, 0, "cpu", tmp_path)


def test_a_loss_that_is_no_number_says_what_to_change(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"learning_rate: .*not a finite number"):
        tuned(tmp_path / "a", job(learning_rate=1e30))


@pytest.mark.parametrize("targets", [["q_proj", "nonsense"], ["input_layernorm"]])
def test_targets_that_match_nothing_name_those_that_exist(tmp_path: Path, targets: list[str]) -> None:
    with pytest.raises(UserError, match="down_proj, gate_proj, k_proj, lm_head") as e:
        tuned(tmp_path / "a", job(targets=targets))
    assert e.value.field == "finetune.targets"


def test_named_targets_alone_are_adapted(tmp_path: Path) -> None:
    _, weights = tuned(tmp_path / "a", job(targets=["q_proj"], epochs=1))
    assert len(weights) == 4 and all(".q_proj." in name for name in weights)
