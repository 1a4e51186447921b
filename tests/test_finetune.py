"""Fine-tuning: what is learned, what decides the adapter, what is written, and where it runs."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from conftest import ORACLES, oracle_rows
from safetensors.torch import load_file

from nncift_core.config import Config, parse_config
from nncift_core.errors import RunError, UserError
from nncift_core.finetune import (
    FineTuned,
    TrainingRows,
    encode,
    fine_tune,
    fine_tune_key,
    load_fine_tuned,
    load_student,
    student,
    student_key,
)
from nncift_core.finetune.loop import Collator, RowOrder, micro_batch, train
from nncift_core.finetune.process import child_env, child_spec, fine_tune_apart
from nncift_core.finetune.training import _with_adapters
from nncift_core.hashing import content_hash, int63
from nncift_core.language_models import LanguageModel, language_model_key, load_tokenizer
from nncift_core.sequences import fill

TINY = ORACLES / "tiny-lm"
FAST: dict[str, Any] = {"epochs": 2, "batch_size": 4, "rank": 4, "learning_rate": 5e-3}


def job(base_dir: Path | None = None, teacher: str = str(TINY), **finetune: Any) -> Config:
    settings = {k: v for k, v in (FAST | finetune).items() if v is not None}
    data = {"pool": {"source": "unused"}, "language_model": {"model": teacher}, "finetune": settings}
    return parse_config(data, base_dir=base_dir)


def rows_of(pairs: list[tuple[str, str]]) -> TrainingRows:
    return TrainingRows(
        example_ids=tuple(1000 + k for k in range(len(pairs))),
        places=tuple(f'pool row {k} (id "r{k}")' for k in range(len(pairs))),
        content_hashes=tuple(content_hash(p, r) for p, r in pairs),
        prompts=tuple(p for p, _ in pairs),
        responses=tuple(r for _, r in pairs),
    )


PAIRS = [(str(r["prompt"]), str(r["response"])) for r in oracle_rows("pool")][:10]
ROWS = rows_of(PAIRS)


def tuned(
    folder: Path, config: Config | None = None, rows: TrainingRows = ROWS, seed: int = 0, **kw: Any
) -> tuple[FineTuned, dict[str, torch.Tensor]]:
    """What `fine_tune` returned and wrote."""
    folder.mkdir()
    done = kw.pop("by", fine_tune)(config or job(), rows, seed, "cpu", folder, **kw)
    return done, load_file(folder / "adapter_model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def gap(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[k] - b[k]).abs().max()) for k in a)


def copy_of_tiny(folder: Path) -> Path:
    folder.mkdir()
    for path in TINY.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def tiny() -> LanguageModel:
    return load_student(job(), "cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[FineTuned, dict[str, torch.Tensor], Path]:
    folder = tmp_path_factory.mktemp("trained") / "adapter"
    return *tuned(folder), folder


def test_only_the_response_is_learned_even_when_the_prompt_speaks_the_template(tiny: LanguageModel) -> None:
    pairs = [("Say Response: twice.\nResponse: no", "Response: Response:"), ("short", "a")]
    template = "Instruction: {prompt}\nResponse: "
    encoded = encode(tiny, rows_of(pairs), template)
    examples = [
        {"input_ids": ids, "n_prompt": n} for ids, n in zip(encoded.sequences, encoded.n_prompt, strict=True)
    ]
    batch = Collator(pad=7)(examples)
    for k, (prompt, response) in enumerate(pairs):
        before = tiny.tokenizer.encode(f"Instruction: {prompt}\nResponse: ", add_special_tokens=False)
        after = [*tiny.tokenizer.encode(response, add_special_tokens=False), tiny.eos_id]
        n, padding = len(before) + len(after), batch["input_ids"].shape[1] - len(before) - len(after)
        assert batch["input_ids"][k].tolist() == before + after + [7] * padding
        assert batch["labels"][k].tolist() == [-100] * len(before) + after + [-100] * padding
        assert batch["attention_mask"][k].tolist() == [1] * n + [0] * padding
    assert batch["attention_mask"][1].min() == 0
    assert encoded.response_tokens == int((batch["labels"] != -100).sum())
    assert encoded.tokens == int(batch["attention_mask"].sum()) and encoded.truncated == 0


def test_rows_longer_than_the_context_lose_the_prompts_start_and_are_counted(tiny: LanguageModel) -> None:
    encoded = encode(tiny, rows_of([("word " * 3000, "yes"), ("hi", "no")]), "{prompt}")
    response = [*tiny.tokenize(["yes"])[0], tiny.eos_id]
    assert len(encoded.sequences[0]) == 1024 and encoded.truncated == 1
    assert encoded.sequences[0][encoded.n_prompt[0] :] == response


def test_a_tokenizer_alone_is_enough_to_count() -> None:
    unloaded = load_tokenizer(student(job()))
    assert encode(unloaded, ROWS, "{prompt} ").tokens > 0


def test_responses_without_tokens_are_refused_by_name(tmp_path: Path) -> None:
    rows = rows_of([*PAIRS[:3], *[("p", "")] * 7])
    with pytest.raises(UserError) as e:
        tuned(tmp_path / "a", rows=rows)
    text = str(e.value)
    assert "7 of 10" in text and 'example 1003, pool row 3 (id "r3")' in text
    assert 'pool row 7 (id "r7")' in text and "pool row 8" not in text and "and 2 more" in text


def reference(model: LanguageModel, config: Config, seed: int) -> Any:
    """The adapters by a plain loop: every step sees all rows, one at a time."""
    own = config.finetune
    assert own is not None
    adapted = _with_adapters(model.model, own, int63(f"fine-tune\x1f{seed}") % 2**32).train()
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
    config = job(epochs=6, batch_size=16, batch_tokens=600, warmup=0.3, weight_decay=0.1, alpha=8)
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
    assert done.losses[0] < before + 0.05 and after < done.losses[-1] + 0.05
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
    trained: tuple[FineTuned, dict[str, torch.Tensor], Path],
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


def test_the_order_of_rows_does_not_matter_and_the_seed_does(
    trained: tuple[FineTuned, dict[str, torch.Tensor], Path], tmp_path: Path
) -> None:
    assert same(tuned(tmp_path / "a", rows=rows_of(PAIRS[::-1]))[1], trained[1])
    assert gap(tuned(tmp_path / "b", seed=1)[1], trained[1]) > 1e-3


def test_micro_batches_do_not_matter(
    trained: tuple[FineTuned, dict[str, torch.Tensor], Path], tmp_path: Path
) -> None:
    done, weights = tuned(tmp_path / "a", job(batch_tokens=64))
    assert gap(weights, trained[1]) < 1e-4
    assert done.losses == pytest.approx(trained[0].losses, abs=1e-5) and done.steps == trained[0].steps


def test_copies_of_a_row_stay(tmp_path: Path) -> None:
    done, _ = tuned(tmp_path / "a", rows=rows_of(PAIRS[:2] * 3))
    assert (done.rows, done.steps) == (6, 4)


@pytest.mark.parametrize(
    ("longest", "batch_size", "batch_tokens", "micro"),
    [(100, 16, 8192, 16), (100, 16, 800, 8), (100, 16, 1599, 8), (100, 6, 500, 3), (9000, 16, 8192, 1)],
)
def test_micro_batch_is_a_divisor_that_fits(
    longest: int, batch_size: int, batch_tokens: int, micro: int
) -> None:
    assert micro_batch(longest, batch_size, batch_tokens) == micro


def test_every_epoch_has_an_order_of_its_own_longest_first_within_a_step() -> None:
    lengths = [3, 9, 4, 1, 7, 7, 2, 8, 5, 6]
    order = RowOrder(lengths, 4, seed=3)
    epochs = []
    for epoch in range(3):
        order.set_epoch(epoch)
        rows = list(order)
        assert sorted(rows) == list(range(10)) and rows == list(order)
        for start in range(0, 10, 4):
            step = [lengths[k] for k in rows[start : start + 4]]
            assert step == sorted(step, reverse=True)
        epochs.append(tuple(rows))
    assert len(set(epochs)) == 3
    assert list(RowOrder(lengths, 4, seed=4)) != list(RowOrder(lengths, 4, seed=3))


def test_epochs_take_their_rows_in_their_own_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[int] = []
    set_epoch = RowOrder.set_epoch

    def noted(order: RowOrder, epoch: int) -> None:
        seen.append(epoch)
        set_epoch(order, epoch)

    monkeypatch.setattr(RowOrder, "set_epoch", noted)
    tuned(tmp_path / "a", job(epochs=3))
    assert sorted(set(seen)) == [0, 1, 2]


KEYED: list[dict[str, Any]] = [
    {"template": "Q: {prompt}\nA: "},
    {"epochs": 3},
    {"batch_size": 5},
    {"learning_rate": 1e-3},
    {"warmup": 0.5},
    {"weight_decay": 0.1},
    {"rank": 5},
    {"alpha": 5.0},
    {"dropout": 0.1},
    {"targets": ["q_proj"]},
    {"model": "builtin"},
    {"model": str(TINY), "dtype": "bfloat16"},
]


@pytest.mark.parametrize("change", KEYED, ids=lambda c: "-".join(c))
def test_the_key_follows_what_changes_the_adapter(change: dict[str, Any]) -> None:
    assert fine_tune_key(job(**change), ["a", "b"], 0) != fine_tune_key(job(), ["a", "b"], 0)


def test_the_key_follows_rows_as_a_multiset_and_the_seed_but_not_devices_and_memory() -> None:
    key = fine_tune_key(job(), ["a", "b", "b"], 0)
    assert key == fine_tune_key(job(), ["b", "a", "b"], 0)
    assert key == fine_tune_key(job(device="cpu", batch_tokens=64), ["a", "b", "b"], 0)
    assert key == fine_tune_key(job(model=str(TINY), dtype="float32"), ["a", "b", "b"], 0)
    assert len({key, fine_tune_key(job(), ["a", "b"], 0), fine_tune_key(job(), ["a", "b", "b"], 1)}) == 3
    targets = (["q_proj", "v_proj"], ["v_proj", "q_proj"])
    assert len({fine_tune_key(job(targets=t), ["a"], 0) for t in targets}) == 1


def test_a_student_of_its_own_in_a_folder_with_no_padding_token(tmp_path: Path) -> None:
    folder = copy_of_tiny(tmp_path / "my-student")
    for name, key in (("tokenizer_config.json", "pad_token"), ("config.json", "pad_token_id")):
        data = json.loads((folder / name).read_text(encoding="utf-8"))
        del data[key]
        (folder / name).write_text(json.dumps(data), encoding="utf-8")
    config = job(base_dir=tmp_path, teacher="builtin", model="my-student", device="cpu", batch_tokens=700)
    assert (student(config).model, student(config).batch_tokens) == ("my-student", 700)
    assert student_key(config) == language_model_key(student(config), str(tmp_path))
    assert student_key(config) != student_key(job(teacher="builtin"))

    done, _ = tuned(tmp_path / "a", config)
    loaded = load_fine_tuned(config, tmp_path / "a", "cpu")
    assert loaded.tokenizer.pad_token_id is None
    assert done.losses[1] < done.losses[0] and loaded.model.config.hidden_size == 64
    shape = json.loads((tmp_path / "a" / "adapter_config.json").read_text(encoding="utf-8"))
    assert shape["base_model_name_or_path"] == "my-student"


def test_the_teacher_is_the_student_unless_one_is_named() -> None:
    config = parse_config(
        {
            "pool": {"source": "unused"},
            "language_model": {"model": str(TINY), "dtype": "bfloat16", "device": "cuda:3"},
            "finetune": {"device": "cpu", "batch_tokens": 99},
        }
    )
    found = student(config)
    assert (found.model, found.dtype, found.device, found.batch_tokens) == (str(TINY), "bfloat16", "cpu", 99)


def test_errors_about_a_student_of_its_own_name_its_keys() -> None:
    with pytest.raises(UserError) as e:
        student_key(job(model="./nowhere"))
    assert e.value.field == "finetune.model"
    with pytest.raises(UserError) as e:
        student_key(job(teacher="./nowhere"))
    assert e.value.field == "language_model.model"


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
        adapted = _with_adapters(model.model, own, 1)
        train(replace(model, model=adapted), own, encode(model, ROWS, own.template), 1, float16, None)
        found.append({n: p.detach() for n, p in adapted.named_parameters() if p.requires_grad})
    assert gap(*found) < 1e-6


def test_the_folder_holds_the_adapter_alone_and_no_machine_path(
    trained: tuple[FineTuned, dict[str, torch.Tensor], Path],
) -> None:
    done, weights, folder = trained
    assert sorted(p.name for p in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    text = (folder / "adapter_config.json").read_text(encoding="utf-8")
    shape = json.loads(text)
    assert shape["base_model_name_or_path"] == "tiny-lm" and str(TINY.parent) not in text
    linear = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert shape["target_modules"] == sorted(shape["target_modules"])
    assert {name.split(".")[-1] for name in shape["target_modules"]} == linear
    assert sum(p.numel() for p in weights.values()) == done.trainable_parameters


def test_a_loaded_adapter_gathers_log_probs_like_a_full_forward_pass(
    trained: tuple[FineTuned, dict[str, torch.Tensor], Path],
    recwarn: pytest.WarningsRecorder,
) -> None:
    loaded = load_fine_tuned(job(), trained[2], "cpu")
    assert [str(w.message) for w in recwarn] == []
    assert not loaded.model.training and not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.key != load_student(job(), "cpu").key
    prompts, responses = [[5, 6, 7], [9]], [[12, 13], [14, 15, 0]]
    seen: list[int] = []
    hook = loaded.model.get_output_embeddings().register_forward_hook(
        lambda _module, _args, out: seen.append(out.shape[1])
    )
    found = loaded.response_log_probs(prompts, responses)
    hook.remove()
    assert seen == [5]
    for prompt, response, values in zip(prompts, responses, found, strict=True):
        with torch.inference_mode():
            full = torch.log_softmax(loaded.model(input_ids=torch.tensor([prompt + response])).logits[0], -1)
        expected = [float(full[len(prompt) + t - 1, y]) for t, y in enumerate(response)]
        np.testing.assert_allclose(values, expected, atol=1e-5)


def test_the_folder_must_be_there_and_empty(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="empty folder"):
        fine_tune(job(), ROWS, 0, "cpu", tmp_path / "absent")
    (tmp_path / "x").write_text("")
    with pytest.raises(ValueError, match="empty folder"):
        fine_tune(job(), ROWS, 0, "cpu", tmp_path)


def test_a_loss_that_is_no_number_says_what_to_change(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"not a finite number.*learning_rate"):
        tuned(tmp_path / "a", job(learning_rate=1e30))


@pytest.mark.parametrize("targets", [["q_proj", "nonsense"], [], ["input_layernorm"]])
def test_targets_that_match_nothing_name_those_that_exist(tmp_path: Path, targets: list[str]) -> None:
    with pytest.raises(UserError, match="down_proj, gate_proj, k_proj, lm_head") as e:
        tuned(tmp_path / "a", job(targets=targets))
    assert e.value.field == "finetune.targets"


def test_named_targets_alone_are_adapted(tmp_path: Path) -> None:
    _, weights = tuned(tmp_path / "a", job(targets=["q_proj"], epochs=1))
    assert len(weights) == 4 and all(".q_proj." in name for name in weights)


def test_a_process_of_its_own_gives_the_same_adapter(
    trained: tuple[FineTuned, dict[str, torch.Tensor], Path], tmp_path: Path
) -> None:
    steps: list[tuple[int, int]] = []
    done, weights = tuned(tmp_path / "a", by=fine_tune_apart, progress=lambda a, b: steps.append((a, b)))
    assert same(weights, trained[1]) and done == trained[0]
    shapes = [(folder / "adapter_config.json").read_bytes() for folder in (trained[2], tmp_path / "a")]
    assert shapes[0] == shapes[1]
    assert steps == [(k, 6) for k in range(1, 7)]


def test_its_user_errors_come_through(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="example 1000, pool row 0") as e:
        tuned(tmp_path / "a", rows=rows_of([("p", "")]), by=fine_tune_apart)
    assert e.value.what.startswith("1 of 1") and e.value.mend.startswith("Give these rows")


def test_its_death_is_told_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", str(tmp_path / "nowhere"))
    with pytest.raises(RunError, match=r"(?s)ended with code.*encodings"):
        tuned(tmp_path / "a", by=fine_tune_apart)


def children() -> list[psutil.Process]:
    found = psutil.Process().children(recursive=True)
    return [p for p in found if "nncift_core.finetune" in p.cmdline()]


def test_it_ends_when_its_caller_gives_up(tmp_path: Path) -> None:
    alive: list[int] = []

    def give_up(_done: int, _total: int) -> None:
        alive.append(len(children()))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(tmp_path / "a", job(epochs=100_000), by=fine_tune_apart, progress=give_up)
    assert alive == [1] and children() == []


def test_it_ends_when_its_callers_end_of_the_pipe_closes(tmp_path: Path) -> None:
    """As happens when the caller is killed: stdin is at its end from the start here."""
    folder, spec, result = tmp_path / "a", tmp_path / "spec.json", tmp_path / "result.json"
    folder.mkdir()
    spec.write_text(json.dumps(child_spec(job(), ROWS, 0, "cpu", folder)), encoding="utf-8")
    command = [sys.executable, "-m", "nncift_core.finetune", str(spec), str(result)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, env=child_env("cpu"), timeout=120)
    assert done.returncode == 1 and not result.exists() and not any(folder.iterdir())


@pytest.mark.parametrize(
    ("visible", "device", "expected"),
    [(None, "cuda:2", "2"), (None, "cuda", "0"), ("5,7", "cuda:1", "7"), ("GPU-a, GPU-b", "cuda:1", "GPU-b")],
)
def test_its_gpu_is_the_only_one_it_sees(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, device: str, expected: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    env = child_env(device)
    assert env["CUDA_VISIBLE_DEVICES"] == expected
    assert not {"WORLD_SIZE", "ACCELERATE_USE_CPU"} & env.keys()


def test_a_gpu_that_is_not_visible_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    with pytest.raises(RunError, match="cuda:1"):
        child_env("cuda:1")
    assert child_env("cpu")["CUDA_VISIBLE_DEVICES"] == "5"


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, nncift_core.finetune; print({'torch', 'peft', 'transformers'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
