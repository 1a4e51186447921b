"""Loading of language models, their keys, and log-probabilities of responses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    MambaConfig,
    PretrainedConfig,
)

from nncift_core.config import LanguageModelConfig
from nncift_core.devices import available_devices, pick, resolve_devices
from nncift_core.errors import UserError
from nncift_core.language_models import LanguageModel, language_model_key, load_language_model

TINY = Path(__file__).parent / "data" / "oracles" / "tiny-lm"


def load(folder: Path | str = TINY, **settings: Any) -> LanguageModel:
    return load_language_model(LanguageModelConfig(model=str(folder), **settings), "cpu")


def copy_of_tiny(folder: Path, *without: str) -> Path:
    folder.mkdir()
    for path in TINY.iterdir():
        if path.name not in without:
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    data = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({k: v for k, v in data.items() if v is not None}), encoding="utf-8")


@pytest.fixture(scope="module")
def tiny() -> LanguageModel:
    return load()


def test_the_loaded_model_says_what_it_is(tiny: LanguageModel) -> None:
    assert (tiny.context_length, tiny.eos_id, tiny.bos_ids, tiny.device) == (1024, 0, (), "cpu")
    assert tiny.model.dtype == torch.float32 and not tiny.model.training
    assert sum(p.numel() for p in tiny.model.parameters()) == 150_336
    assert tiny.key == language_model_key(LanguageModelConfig(model=str(TINY)))


def test_tokenize_adds_and_cuts_nothing(tiny: LanguageModel, capfd: pytest.CaptureFixture[str]) -> None:
    text = "naïve 😀 " * 900
    ids = tiny.tokenize([text, ""])
    assert len(ids[0]) > 1024 and ids[1] == []
    assert tiny.tokenizer.decode(ids[0]) == text
    assert tiny.tokenize([]) == []
    assert capfd.readouterr() == ("", "")


def test_special_tokens_in_a_text_stay_text(tiny: LanguageModel) -> None:
    text = "stop <|endoftext|> and <|pad|> here"
    (ids,) = tiny.tokenize([text])
    assert {0, 1}.isdisjoint(ids) and tiny.tokenizer.decode(ids) == text
    assert tiny.tokenizer(text, add_special_tokens=False)["input_ids"].count(0) == 1
    assert tiny.tokenize([text])[0] == ids


def test_four_bits_need_a_gpu_and_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    config = LanguageModelConfig(model=str(TINY), quantization="4bit")
    mend = r'language_model.quantization: .*pip install "nncift\[4bit\]"'
    with pytest.raises(UserError, match=f"(?s){mend}") as error:
        load_language_model(config, "cpu")
    assert 'the model\'s device is "cpu"' in str(error.value)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=f"(?s){mend}") as error:
        load_language_model(config, "cuda:0")
    assert "bitsandbytes, which is not installed" in str(error.value)


def test_four_bit_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    from nncift_core.language_models import _four_bit

    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    told = _four_bit("cuda:1", torch.bfloat16)
    how = told["quantization_config"]
    assert told["device_map"] == {"": "cuda:1"} and how.load_in_4bit
    assert (how.bnb_4bit_quant_type, how.bnb_4bit_use_double_quant) == ("nf4", True)
    assert how.bnb_4bit_compute_dtype == torch.bfloat16


def test_key_follows_quantization_and_template_only_where_they_are_set() -> None:
    base = LanguageModelConfig(model=str(TINY))
    keys = [
        language_model_key(base.model_copy(update=changes))
        for changes in ({}, {"quantization": "4bit"}, {"template": "chat"})
    ]
    assert len(set(keys)) == 3
    from nncift_core.hashing import digest
    from nncift_core.models import folder_fingerprint

    assert keys[0] == digest({"model": folder_fingerprint(TINY), "dtype": base.dtype})


def test_loading_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    load()
    assert capfd.readouterr() == ("", "")


def test_response_log_probs_equal_one_at_a_time_full_logits(tiny: LanguageModel) -> None:
    prompts, responses = [[5, 6, 7, 8], [9], [10, 11]], [[12], [13, 14, 0], [15, 16, 17, 18, 0]]
    found = tiny.response_log_probs(prompts, responses)
    for prompt, response, log_probs in zip(prompts, responses, found, strict=True):
        ids = torch.tensor([prompt + response])
        with torch.inference_mode():
            full = torch.log_softmax(tiny.model(input_ids=ids).logits[0], dim=-1)
        steps = range(len(prompt) - 1, ids.shape[1] - 1)
        expected = [float(full[t, ids[0, t + 1]]) for t in steps]
        assert log_probs.dtype == np.float32
        np.testing.assert_allclose(log_probs, expected, rtol=0, atol=1e-5)


SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 0,
}
CONFIGS = {
    "soft-capped": Gemma2Config(**SMALL, head_dim=16, final_logit_softcapping=0.5, sliding_window=4),
    "scaled": CohereConfig(**SMALL, logit_scale=4.0),
    "divided": GraniteConfig(**SMALL, logits_scaling=8.0),
    "learned positions": GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2, n_positions=64),
    "state space": MambaConfig(vocab_size=50, hidden_size=16, state_size=4, num_hidden_layers=2),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_only_at_the_response_equal_the_models_own(name: str, tiny: LanguageModel) -> None:
    config: PretrainedConfig = CONFIGS[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    lm = LanguageModel(model, tiny.tokenizer, "cpu", 64, 0, (), "k")
    seen: list[tuple[int, ...]] = []
    hook = model.get_output_embeddings().register_forward_hook(
        lambda m, a, out: seen.append(tuple(out.shape))
    )
    found = lm.response_log_probs([[5, 6, 7, 8, 9, 10], [20]], [[30, 31, 0], [33, 34, 35, 36, 0]])
    hook.remove()
    # The passes before the last one are the look at whether the last layer can be trimmed.
    assert seen[-1] == (1, 8, 50)
    for ids, start, log_probs in (
        ([5, 6, 7, 8, 9, 10, 30, 31, 0], 6, found[0]),
        ([20, 33, 34, 35, 36, 0], 1, found[1]),
    ):
        with torch.inference_mode():
            full = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].float(), dim=-1)
        expected = [float(full[t - 1, ids[t]]) for t in range(start, len(ids))]
        np.testing.assert_allclose(log_probs, expected, rtol=0, atol=2e-5)


def test_a_model_without_a_callable_output_layer_gets_full_logits(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, responses = [[5, 6, 7], [9]], [[12, 0], [13, 14, 0]]
    expected = tiny.response_log_probs(prompts, responses)
    monkeypatch.setattr(tiny.model, "get_output_embeddings", lambda: None)
    for a, b in zip(tiny.response_log_probs(prompts, responses), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_empty_sequences_are_refused(tiny: LanguageModel) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        tiny.response_log_probs([[]], [[1]])
    with pytest.raises(ValueError, match="at least one token"):
        tiny.response_log_probs([[1]], [[]])


def test_key_follows_the_files_and_dtype_not_the_path(tmp_path: Path) -> None:
    here = language_model_key(LanguageModelConfig(model=str(TINY)))
    copy = copy_of_tiny(tmp_path / "copy")
    (copy / "README.md").write_text("notes", encoding="utf-8")
    assert language_model_key(LanguageModelConfig(model="copy"), str(tmp_path)) == here
    assert language_model_key(LanguageModelConfig(model=str(TINY), dtype="bfloat16")) != here
    edit_json(copy / "config.json", rms_norm_eps=2e-5)
    assert language_model_key(LanguageModelConfig(model=str(copy))) != here


def test_builtin_is_the_shipped_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    builtin = pytest.importorskip("nncift_core.builtin")
    monkeypatch.setattr(builtin, "lm_path", lambda: TINY, raising=False)
    here = language_model_key(LanguageModelConfig(model=str(TINY)))
    assert language_model_key(LanguageModelConfig(model="builtin")) == here


def broken(folder: Path, kind: str) -> None:
    weights = folder / "model.safetensors"
    if kind == "pickled":
        weights.rename(folder / "pytorch_model.bin")
    elif kind == "adapter":
        (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
        (folder / "config.json").unlink()
    elif kind == "torn":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif kind == "two more layers":
        edit_json(folder / "config.json", num_hidden_layers=4)
    elif kind == "another shape":
        edit_json(folder / "config.json", hidden_size=32)
    elif kind == "no eos":
        edit_json(folder / "tokenizer_config.json", eos_token=None)
    elif kind == "no tokenizer":
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").unlink()
    else:
        (folder / kind).unlink()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("config.json", "has no config.json.*save_pretrained"),
        ("model.safetensors", r"has no weights\. It needs at least one \.safetensors"),
        ("pickled", r"has pickled weights only, which can run code.*Convert them to safetensors"),
        ("adapter", "has no config.json.*merge it into its base model"),
        ("torn", "cannot be loaded as a causal language model"),
        ("two more layers", r"lack model\.layers\.2.*\(18 such in all\)"),
        ("another shape", "cannot be loaded as a causal language model|have another shape"),
        ("no eos", "has no end-of-sequence token. Set eos_token in its tokenizer_config.json"),
        ("no tokenizer", "cannot be loaded as a causal language model"),
    ],
)
def test_unusable_folders_are_named_with_the_mend(tmp_path: Path, kind: str, message: str) -> None:
    folder = copy_of_tiny(tmp_path / "lm")
    broken(folder, kind)
    with pytest.raises(UserError, match=f"(?s)field language_model.model: .*{message}"):
        load(folder)


def test_names_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='no folder "./absent"'):
        language_model_key(LanguageModelConfig(model="./absent"), str(tmp_path))
    (tmp_path / "model.gguf").write_bytes(b"")
    with pytest.raises(UserError, match='"model.gguf" is a file. Give the folder'):
        language_model_key(LanguageModelConfig(model="model.gguf"), str(tmp_path))
    with pytest.raises(
        UserError, match="field language_model.revision: a revision applies to hub models only"
    ):
        language_model_key(LanguageModelConfig(model=str(TINY), revision="main"))


def test_context_length_falls_back_on_the_tokenizer(tmp_path: Path, tiny: LanguageModel) -> None:
    from nncift_core.language_models import _context_length

    assert _context_length(CONFIGS["learned positions"], tiny.tokenizer) == 64
    assert _context_length(CONFIGS["state space"], tiny.tokenizer) == 1024


def test_devices() -> None:
    assert available_devices()[-1] == "cpu"
    auto = resolve_devices("auto")
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    assert auto == (cuda or ["cpu"])
    assert resolve_devices(["cpu", "cpu"]) == ["cpu", "cpu"]
    assert (pick("auto", "cuda:3"), pick("cpu", "cuda:3")) == ("cuda:3", "cpu")
    with pytest.raises(UserError, match='field execution.devices: no device "cuda:99".*one of: .*cpu'):
        resolve_devices(["cpu", "cuda:99"])
    with pytest.raises(UserError, match="names no device"):
        resolve_devices([])
