"""One copy of a language model over several devices: their groups, which module lies where, equal values."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.hooks import AlignDevicesHook
from conftest import ORACLES
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, OPTConfig, PretrainedConfig

from nncift_core.config import LanguageModelConfig, LessConfig, parse_config
from nncift_core.errors import UserError
from nncift_core.forward_features import ForwardFeatures
from nncift_core.influence.contract import InfluenceFunction, Rows
from nncift_core.influence.delift import Delift
from nncift_core.influence.less import Less
from nncift_core.influence.registry import create, function_key
from nncift_core.language_models import LanguageModel, check_language_model, load_language_model
from nncift_core.placement import device_map, shares, slot_groups

TINY = str(ORACLES / "tiny-lm")
TWO = ("cpu", "cpu")
FIELD = "language_model.devices"


def test_devices_are_grouped_in_order_and_what_is_left_over_is_told() -> None:
    names = [f"cuda:{k}" for k in range(5)]
    assert slot_groups(names, 1) == ([(name,) for name in names], ())
    assert slot_groups(names, 2) == ([("cuda:0", "cuda:1"), ("cuda:2", "cuda:3")], ("cuda:4",))
    assert slot_groups(names, 5) == ([tuple(names)], ())
    assert slot_groups(["cuda:1", "cuda:0", "cuda:1"], 2) == ([("cuda:1", "cuda:0")], ("cuda:1",))


@pytest.mark.parametrize(
    ("names", "told"), [(["cpu"], "there is only cpu"), (["cuda:0", "cpu"], "cannot lie on")]
)
def test_devices_that_make_no_group_are_refused(names: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told) as e:
        slot_groups(names, 2)
    assert e.value.field == FIELD and e.value.mend


SIZES = st.lists(st.integers(1, 50), min_size=1, max_size=8)


@given(SIZES, st.integers(1, 4), st.integers(0, 80), st.integers(0, 80))
def test_the_fullest_device_holds_as_little_as_can_be(
    sizes: list[int], devices: int, before: int, after: int
) -> None:
    devices = min(devices, len(sizes))

    def fullest(counts: list[int]) -> float:
        ends = np.cumsum([0, *counts])
        held = [sum(sizes[a:b]) for a, b in zip(ends[:-1], ends[1:], strict=True)]
        held[0] += before
        held[-1] += after
        return max(held)

    found = shares(sizes, devices, before, after)
    assert len(found) == devices and sum(found) == len(sizes) and min(found) >= 1
    cuts = combinations(range(1, len(sizes)), devices - 1)
    every = (np.diff([0, *cut, len(sizes)]).tolist() for cut in cuts)
    assert fullest(found) == min(map(fullest, every))


def test_equal_blocks_are_shared_out_evenly() -> None:
    assert sorted(shares([1] * 7, 3)) == [2, 2, 3]
    assert shares([1] * 80, 8) == [10] * 8
    assert shares([1] * 6, 2, before=2) == [2, 4], "what the first device holds beside its blocks counts"


SMALL: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 6,
    "num_attention_heads": 2,
}
LLAMA = {**SMALL, "intermediate_size": 64, "num_key_value_heads": 2}
MODELS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**LLAMA, tie_word_embeddings=False),
    "llama, tied": LlamaConfig(**LLAMA, tie_word_embeddings=True),
    "gpt2": GPT2Config(vocab_size=300, n_embd=32, n_layer=6, n_head=2),
    "opt": OPTConfig(**SMALL, ffn_dim=64, word_embed_proj_dim=32, tie_word_embeddings=False),
}


def held(model: Any, places: dict[str, str]) -> dict[str, str]:
    """Device of every weight and buffer; exactly one place names each."""
    found = {}
    for name, _ in (*model.named_parameters(remove_duplicate=False), *model.named_buffers()):
        (part,) = [p for p in places if name == p or name.startswith(f"{p}.")]
        found[name] = places[part]
    return found


@pytest.mark.parametrize("count", [2, 3, 6])
@pytest.mark.parametrize("name", MODELS)
def test_every_module_is_placed_once_and_in_order(name: str, count: int) -> None:
    devices = [f"cuda:{k}" for k in range(count)]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(MODELS[name])
    places = device_map(model, devices)
    where = held(model, places)
    blocks = [p for p in places if p.rpartition(".")[2].isdigit()]
    assert len(blocks) == 6 and [int(p.rpartition(".")[2]) for p in blocks] == list(range(6))
    numbers = [int(places[p][5:]) for p in blocks]
    assert numbers == sorted(numbers) and set(numbers) == set(range(count)), "in order, none without blocks"
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    named = {id(m): n for n, m in model.named_modules()}
    first, last = named[id(embeddings)], named[id(head)]
    assert where[f"{first}.weight"] == "cuda:0"
    tied = head.weight is embeddings.weight
    assert tied == ("tied" in name or name == "gpt2")
    assert where[f"{last}.weight"] == ("cuda:0" if tied else devices[-1])


def test_devices_hold_about_as_many_bytes_each() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**{**LLAMA, "num_hidden_layers": 40}))
    where = held(model, device_map(model, ["a", "b", "c"]))
    sums = dict.fromkeys("abc", 0)
    for name, parameter in model.named_parameters():
        sums[where[name]] += parameter.numel()
    block = sum(p.numel() for p in model.model.layers[0].parameters())
    assert max(sums.values()) - min(sums.values()) <= block


def test_four_bit_blocks_weigh_less_beside_embeddings() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            LlamaConfig(**{**LLAMA, "vocab_size": 3000, "num_hidden_layers": 40, "tie_word_embeddings": True})
        )
    plain, small = (device_map(model, ["a", "b"], four_bit=bits) for bits in (False, True))
    on_first = [sum(w == "a" for n, w in m.items() if "layers" in n) for m in (plain, small)]
    assert on_first[1] < on_first[0], "the embeddings stay as large as they were"


def test_models_that_cannot_be_spread_are_refused() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(MODELS["llama"])
    with pytest.raises(UserError, match="6 blocks, too few for 7 devices") as e:
        device_map(model, ["cpu"] * 7)
    assert e.value.field == FIELD
    model.model.layers[5].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    with pytest.raises(UserError, match=r"layers\.0 and model\.layers\.5 share weights"):
        device_map(model, TWO[:1] + ("away",))
    del model.model.layers
    with pytest.raises(UserError, match="no list of blocks"):
        device_map(model, TWO)


def test_too_few_blocks_are_told_before_anything_is_loaded() -> None:
    section = LanguageModelConfig(model=TINY)
    check_language_model(section, "cpu", "", TWO)
    with pytest.raises(UserError, match="2 blocks, too few for 3 devices"):
        check_language_model(section, "cpu", "", ("cpu",) * 3)


def over_two(model: str = "builtin") -> LanguageModel:
    """The model over one CPU twice, its hooks in place."""
    config = LanguageModelConfig(model=model, dtype="float32")
    found = load_language_model(config, "cpu", "", TWO)
    assert_hooked(found.model)
    return found


def assert_hooked(model: Any) -> None:
    hooks = [m._hf_hook for m in model.modules() if hasattr(m, "_hf_hook")]
    assert len(hooks) > 20 and all(isinstance(h, AlignDevicesHook) for h in hooks)
    assert model._hf_hook.io_same_device and set(model.hf_device_map.values()) == {"cpu"}


def test_loading_over_devices_prints_nothing_and_keeps_the_key(capfd: pytest.CaptureFixture[str]) -> None:
    two = over_two(TINY)
    assert capfd.readouterr() == ("", "")
    assert two.device == "cpu" and not two.model.training
    assert two.key == load_language_model(LanguageModelConfig(model=TINY, dtype="float32"), "cpu").key


POOL = Rows(
    np.arange(4),
    ("Name a colour.", "What is two and two?", "Say something about the sea.", ""),
    ("Blue.", "Four, as everybody knows.", "It is wide and it is deep.", "Nothing."),
)
TARGET = Rows(
    np.arange(10, 13),
    ("Name a fruit.", "Which day is it, and which month?", "Sing."),
    ("An apple.", "A Monday.", "La la la, la la."),
)


def job(function: str, devices: int) -> Any:
    return parse_config(
        {
            "pool": {"source": "builtin:pool"},
            "target": {"source": "builtin:target"},
            "language_model": {"model": "builtin", "devices": devices},
            "influence": {"function": function, "less": LESS},
            "execution": {"devices": ["cpu"] * devices},
        }
    )


LESS = {"epochs": 2, "rank": 4, "alpha": 8.0, "batch_size": 2, "learning_rate": 1e-3, "projection_dim": 256}


def valued(function: Any, folder: Path) -> list[Any]:
    """All that `function` gives for POOL and TARGET."""
    pool, target = POOL, TARGET
    if "state" in function.needs:
        folder.mkdir()
        function.fit_state(pool, folder)
        function.load_state(folder)
        features = [function.features(pool, "row"), function.features(target, "column")]
        files = sorted(path.read_bytes() for path in folder.iterdir())
        pool, target = (
            Rows(r.content_ids, r.prompts, r.responses, features=f)
            for r, f in zip((pool, target), features, strict=True)
        )
        return [files, *features, function.tile(pool, target)]
    if function.kind == "pointwise":
        return [function.values(pool)]
    ends = np.array([0, 3, 2])
    return [function.tile(pool, target), function.pairs(pool.take(ends), target)]


def loaded(function: InfluenceFunction) -> LanguageModel:
    if isinstance(function, Less):
        return function.adapted.model
    if isinstance(function, Delift):
        return function.model
    found: LanguageModel = function.raters[0].model  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("name", ["delift", "less", "selectit"])
def test_values_over_two_devices_are_those_over_one(name: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    one, two = create(job(name, 1), "cpu"), create(job(name, 2), *TWO)
    expected, found = valued(one, tmp_path / "one"), valued(two, tmp_path / "two")
    base = loaded(two).model
    assert_hooked(base.get_base_model() if name == "less" else base)
    assert not any(hasattr(m, "_hf_hook") for m in loaded(one).model.modules())
    assert one.key() == two.key() == function_key(job(name, 2))
    for a, b in zip(expected, found, strict=True):
        assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b, "bit for bit"
        assert not isinstance(a, np.ndarray) or np.abs(a).max() > 0


def test_what_estimators_read_of_a_model_over_two_devices_is_that_of_one() -> None:
    torch.set_num_threads(1)
    models = load_language_model(LanguageModelConfig(dtype="float32"), "cpu"), over_two()
    one, two = (
        ForwardFeatures(model, LessConfig().template).compute(POOL.prompts, POOL.responses)
        for model in models
    )
    assert np.array_equal(one, two) and one.shape == (4, 4 + 3 * 128 + 4096)


def test_a_model_on_devices_that_differ_gives_the_same(tmp_path: Path) -> None:
    """On a device that torch is told of for one process: what lies on unlike devices is never mixed."""
    program = Path(__file__).with_name("two_devices.py")
    paths = [str(program.parents[1]), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(program), "builtin", str(tmp_path)], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.count(" apart, of ") == 4


needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")


@needs_two
@pytest.mark.parametrize("name", ["delift", "less", "selectit"])
def test_values_over_two_gpus_are_those_over_one(name: str, tmp_path: Path) -> None:
    one, two = create(job(name, 1), "cuda:0"), create(job(name, 2), "cuda:0", "cuda:1")
    expected, found = valued(one, tmp_path / "one"), valued(two, tmp_path / "two")
    spread = loaded(two).model
    assert {str(p.device) for p in spread.parameters()} == {"cuda:0", "cuda:1"}
    np.testing.assert_allclose(found[-1], expected[-1], rtol=0, atol=1e-3)
