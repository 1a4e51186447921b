"""The student: which model it is, what its key follows, and it with a loaded adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetune.small import TINY, Trained, job, tuned

from nncift_core.config import parse_config
from nncift_core.errors import UserError
from nncift_core.finetune import fine_tune_key, load_fine_tuned, load_student, student, student_key
from nncift_core.language_models import language_model_key

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


def copy_of_tiny(folder: Path) -> Path:
    folder.mkdir()
    for path in TINY.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


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


def test_a_loaded_adapter_gathers_log_probs_like_a_full_forward_pass(
    trained: Trained,
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
    # Earlier passes are the look at whether the last layer can be trimmed.
    assert seen[-1] == 5
    for prompt, response, values in zip(prompts, responses, found, strict=True):
        with torch.inference_mode():
            full = torch.log_softmax(loaded.model(input_ids=torch.tensor([prompt + response])).logits[0], -1)
        expected = [float(full[len(prompt) + t - 1, y]) for t, y in enumerate(response)]
        np.testing.assert_allclose(values, expected, atol=1e-5)
