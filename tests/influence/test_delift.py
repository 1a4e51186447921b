"""DELIFT against the oracle, its token rules, its context rule and its counts."""

from __future__ import annotations

import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from influence.plain_delift import influence as plain_influence
from rope_models import KINDS, fresh, rope_model
from transformers import AutoModelForCausalLM, GPT2Config, MistralConfig, PretrainedConfig

from nncift_core.config import DeliftConfig, LanguageModelConfig, parse_config
from nncift_core.errors import RunError, UserError
from nncift_core.forward import response_log_probs
from nncift_core.influence import delift_passes, registry
from nncift_core.influence.contract import Rows
from nncift_core.influence.delift import Delift
from nncift_core.language_models import LanguageModel, load_language_model
from nncift_core.sequences import fill, halves

ORACLES = Path(__file__).parents[1] / "data" / "oracles"
TINY = str(ORACLES / "tiny-lm")


def oracle_rows(side: str) -> Rows:
    lines = (ORACLES / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    found = [x for x in map(json.loads, lines) if x["side"] == side]
    first = 0 if side == "pool" else 1000
    return Rows(
        np.arange(first, first + len(found)),
        tuple(x["prompt"] for x in found),
        tuple(x["response"] for x in found),
    )


def rows_of(*examples: tuple[str, str], first: int = 0) -> Rows:
    ids = np.arange(first, first + len(examples))
    return Rows(ids, tuple(p for p, _ in examples), tuple(r for _, r in examples))


def with_tokenizer(folder: Path, **changes: Any) -> str:
    """A copy of tiny-lm whose tokenizer.json has `changes`."""
    folder.mkdir()
    for path in Path(TINY).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps(data | changes), encoding="utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def tiny() -> LanguageModel:
    torch.set_num_threads(1)
    return load_language_model(LanguageModelConfig(model=TINY), "cpu")


@pytest.fixture(scope="module")
def oracle() -> dict[str, np.ndarray]:
    with np.load(ORACLES / "delift.npz", allow_pickle=False) as data:
        return dict(data)


def function(model: LanguageModel, batch_tokens: int = 8192, **config: str) -> Delift:
    return Delift(lambda: model, model.key, DeliftConfig(**config), batch_tokens)


def shrink(model: LanguageModel, context_length: int) -> LanguageModel:
    return LanguageModel(**{**vars(model), "context_length": context_length})


def plain_distance(model: LanguageModel, prompt: list[int], response: list[int]) -> float:
    """d by the definition: one sequence, all logits, float64."""
    ids = torch.tensor([prompt + response])
    with torch.inference_mode():
        logits = model.model(input_ids=ids).logits[0].double()
    p = torch.softmax(logits, dim=-1)
    t = torch.arange(len(prompt), len(prompt) + len(response))
    miss = p[t - 1, ids[0, t]] - 1
    return float(miss.norm() / len(response) ** 0.5)


def test_tile_and_distances_equal_the_oracle(tiny: LanguageModel, oracle: dict[str, np.ndarray]) -> None:
    pool, target = oracle_rows("pool"), oracle_rows("target")
    f, done = function(tiny), []
    values = f.tile(pool, target, done.append)
    assert values.dtype == np.float32 and values.shape == (24, 12)
    np.testing.assert_allclose(values, oracle["influence"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(f.distance_without(target), oracle["d_without"], rtol=0, atol=1e-6)
    i, j = np.divmod(np.arange(288), 12)
    d_with = f.distance_with(pool, target, i, j).reshape(24, 12)
    np.testing.assert_allclose(d_with, oracle["d_with"], rtol=0, atol=1e-6)
    assert sum(done) == 288
    assert f.counters["truncated_sequences"] == f.counters["truncated_targets"] == 0
    np.testing.assert_array_equal(values[6], values[20])


def test_pairs_equal_the_oracle_in_scattered_order(
    tiny: LanguageModel, oracle: dict[str, np.ndarray]
) -> None:
    pool, target = oracle_rows("pool"), oracle_rows("target")
    i, j = np.array([7, 0, 23, 8, 7]), np.array([11, 5, 0, 5, 3])
    done: list[int] = []
    values = function(tiny).pairs(pool.take(i), target.take(j), done.append)
    np.testing.assert_allclose(values, oracle["influence"][i, j], rtol=0, atol=1e-6)
    assert sum(done) == 5


def test_the_oracle_tells_joint_tokenising_and_a_missing_eos_apart(
    tiny: LanguageModel, oracle: dict[str, np.ndarray]
) -> None:
    target = oracle_rows("target")
    joint, no_eos = [], []
    for x, y in zip(target.prompts, target.responses, strict=True):
        prompt = f"Instruction: {x}\nResponse: "
        start, response, whole = tiny.tokenize([prompt, y, prompt + y])
        shared = next((k for k, (a, b) in enumerate(zip(start, whole, strict=False)) if a != b), len(start))
        joint.append(plain_distance(tiny, whole[:shared], [*whole[shared:], tiny.eos_id]))
        no_eos.append(plain_distance(tiny, start, response))
    assert np.abs(np.array(joint) - oracle["d_without"]).max() > 1e-3
    assert np.abs(np.array(no_eos) - oracle["d_without"]).max() > 1e-3


def count_tokens(model: LanguageModel, seen: list[int]) -> Any:
    """Note the positions, padding included, of every forward pass."""
    hook = lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel())  # noqa: E731
    return model.model.register_forward_pre_hook(hook, with_kwargs=True)


@pytest.mark.parametrize("batch_tokens", [64, 700, 8192])
def test_the_batch_plan_does_not_change_values(
    tiny: LanguageModel, oracle: dict[str, np.ndarray], batch_tokens: int
) -> None:
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(24)[:11], rng.permutation(12)
    pool, target = oracle_rows("pool").take(rows), oracle_rows("target").take(columns)
    expected = oracle["influence"][np.ix_(rows, columns)]
    f = function(tiny, batch_tokens)
    values = f.tile(pool, target)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(values, function(tiny, batch_tokens).tile(pool, target))
    by_rows = [f.tile(pool.take(np.array([k])), target) for k in range(11)]
    np.testing.assert_allclose(np.concatenate(by_rows), expected, rtol=0, atol=1e-6)
    by_columns = [f.tile(pool, target.take(np.array([k]))) for k in range(12)]
    np.testing.assert_allclose(np.concatenate(by_columns, axis=1), expected, rtol=0, atol=1e-6)


def test_prefixes_are_read_once(tiny: LanguageModel) -> None:
    pool, target = oracle_rows("pool"), oracle_rows("target")
    f, seen = function(tiny), list[int]()
    f.distance_without(target)
    read, alone = f.tokens(pool, target)
    hook = count_tokens(tiny, seen)
    f.tile(pool, target)
    hook.remove()
    # Padding comes on top of what was read; alone would be without any.
    assert read < sum(seen) < 1.1 * read < 0.8 * alone
    grids = list(f._tile_grids(pool, target))
    assert len(grids) == 1 and (len(grids[0].prefixes), len(grids[0].tails)) == (24, 12)


def test_pairs_of_one_example_share_it_and_single_ones_go_together(
    tiny: LanguageModel, oracle: dict[str, np.ndarray]
) -> None:
    pool, target = oracle_rows("pool"), oracle_rows("target")
    i = np.concatenate([np.full(9, 7), np.full(8, 3), [0, 1, 2, 4, 5]])
    j = np.concatenate([np.arange(9), np.arange(4, 12), [0, 3, 6, 9, 11]])
    order = np.random.default_rng(1).permutation(len(i))
    f, seen, done = function(tiny), list[int](), list[int]()
    f._passes.budget.slack = 100
    f.distance_without(target)
    hook = count_tokens(tiny, seen)
    values = f.pairs(pool.take(i[order]), target.take(j[order]), done.append)
    hook.remove()
    np.testing.assert_allclose(values, oracle["influence"][i[order], j[order]], rtol=0, atol=1e-6)
    assert sum(done) == len(i)
    whole = sum(grid.tokens(False) for grid in f._pair_grids(pool, target, i, j))
    assert sum(seen) < whole


def test_where_tokens_cross_the_border_only_what_is_common_is_shared(tiny: LanguageModel) -> None:
    templates = {
        "template_with": "{example_prompt}: {example_response}{prompt}",
        "template_without": "{prompt}:",
    }
    pool = rows_of(("Add these up, one after the other", "so it is 3 and t"), ("b" * 60, "x"))
    target = rows_of(("he end", "yes"), ("wo", "no"), (" two", "3"), ("9", "9"), first=10)
    f = function(tiny, **templates)
    f._passes.budget.slack = 1
    assert halves(lambda i, j: f._encode(pool, target, i, j), 2, 4) is None
    assert [len(grid.prefixes) for grid in f._tile_grids(pool, target)] == [1, 1]
    values = f.tile(pool, target)
    expected, _ = plain_influence(tiny, pool, target, f.config)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)
    read, alone = f.tokens(pool, target)
    assert read < alone


ODD = (
    ("", ""),
    ("Instruction: {prompt}\nResponse: ", "Response: <|endoftext|>"),
    ("<|pad|>{example_response}", "\n\nInstruction: "),
    ("A long one " * 20, "indeed " * 30),
)


def random_model(config: PretrainedConfig, tiny: LanguageModel, **changes: Any) -> LanguageModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    return LanguageModel(**{**vars(tiny), "model": model, **changes})


GPT2 = GPT2Config(vocab_size=1000, n_embd=32, n_layer=2, n_head=2, n_positions=512, initializer_range=0.3)
MISTRAL = MistralConfig(
    vocab_size=1000, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, head_dim=16, sliding_window=24, initializer_range=0.3,
)  # fmt: skip


@pytest.mark.parametrize(("config", "shares"), [(GPT2, True), (MISTRAL, False)], ids=["gpt2", "mistral"])
def test_other_architectures_equal_one_pair_at_a_time(
    config: PretrainedConfig, shares: bool, tiny: LanguageModel
) -> None:
    model = random_model(config, tiny, context_length=512)
    pool, target = rows_of(*ODD, ("Hi", "ho")), rows_of(*ODD, first=10)
    f = function(model)
    f._passes.budget.slack = 1
    values = f.tile(pool, target)
    expected, _ = plain_influence(model, pool, target)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)
    assert np.abs(expected).max() > 1e-3
    read, alone = f.tokens(pool, target)
    assert (read < alone) == shares


def test_padding_side_and_pad_token_do_not_matter(tiny: LanguageModel, tmp_path: Path) -> None:
    pool, target = rows_of(*ODD), rows_of(*ODD, first=10)
    expected, _ = plain_influence(tiny, pool, target)
    settings = {"left": {"padding_side": "left"}, "none": {"pad_token": None}}
    for name, changes in settings.items():
        folder = Path(with_tokenizer(tmp_path / name))
        path = folder / "tokenizer_config.json"
        data = {**json.loads(path.read_text(encoding="utf-8")), **changes}
        path.write_text(json.dumps({k: v for k, v in data.items() if v is not None}), encoding="utf-8")
        model = load_language_model(LanguageModelConfig(model=str(folder)), "cpu")
        assert (model.tokenizer.padding_side, model.tokenizer.pad_token_id) == (
            ("left", 1) if name == "left" else ("right", None)
        )
        np.testing.assert_allclose(function(model).tile(pool, target), expected, rtol=0, atol=1e-5)


class Small(torch.nn.Module):
    """A model on a device whose memory holds `tokens` positions of a forward pass."""

    def __init__(self, inner: Any, tokens: int) -> None:
        super().__init__()
        self.inner, self.tokens, self.config = inner, tokens, inner.config
        self.get_output_embeddings, self.get_input_embeddings = (
            inner.get_output_embeddings, inner.get_input_embeddings,
        )  # fmt: skip
        self.refused = 0

    def forward(self, input_ids: Any = None, position_ids: Any = None, **kwargs: Any) -> Any:
        if input_ids.numel() > self.tokens:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.inner(input_ids=input_ids, position_ids=position_ids, **kwargs)


def test_running_out_of_memory_changes_no_value_and_is_remembered(
    tiny: LanguageModel, oracle: dict[str, np.ndarray]
) -> None:
    small = Small(tiny.model, 700)
    model = LanguageModel(**{**vars(tiny), "model": small})
    pool, target = oracle_rows("pool"), oracle_rows("target")
    f, done = function(model), list[int]()
    values = f.tile(pool, target, done.append)
    np.testing.assert_allclose(values, oracle["influence"], rtol=0, atol=1e-6)
    assert small.refused > 0 and sum(done) == 288 and f._passes.budget.tokens <= 1024
    refused = small.refused
    np.testing.assert_allclose(f.tile(pool, target), oracle["influence"], rtol=0, atol=1e-6)
    assert small.refused == refused
    with pytest.raises(RunError, match="one sequence of .* tokens does not fit into the memory of cpu"):
        function(LanguageModel(**{**vars(tiny), "model": Small(tiny.model, 60)})).tile(pool, target)


def test_placeholders_are_filled_once() -> None:
    assert fill("{prompt}|{example_prompt}", prompt="{example_prompt}", example_prompt="{0} {}") == (
        "{example_prompt}|{0} {}"
    )
    assert fill("{prompt} {other}", prompt=r"\1 {prompt}") == r"\1 {prompt} {other}"


def test_braces_and_emoji_in_data_stay_as_they_are(tiny: LanguageModel) -> None:
    pool = rows_of(("Fill {prompt} {example_response} {", "}} 😀👩‍👩‍👧"), ("", "שלום"))
    target = rows_of(("{example_prompt} {0} 🚀", "{response} naïve 😀"), first=10)
    values = function(tiny).tile(pool, target)
    response = [*tiny.tokenize([target.responses[0]])[0], tiny.eos_id]
    without = "Instruction: {example_prompt} {0} 🚀\nResponse: "
    for k, (x, y) in enumerate(zip(pool.prompts, pool.responses, strict=True)):
        text = "Instruction: " + x + "\nResponse: " + y + "\n\n" + without
        plain, example = tiny.tokenize([without, text])
        expected = plain_distance(tiny, plain, response) - plain_distance(tiny, example, response)
        assert values[k, 0] == pytest.approx(expected, abs=1e-6)


def test_distances_without_an_example_are_computed_once_per_content(tiny: LanguageModel) -> None:
    calls: list[int] = []

    class Counting(LanguageModel):
        def response_log_probs(self, prompts: Any, responses: Any) -> Any:
            calls.append(len(prompts))
            return super().response_log_probs(prompts, responses)

    model = Counting(**vars(tiny))
    target = oracle_rows("target").take(np.array([0, 1, 0]))
    f = function(model)
    first = f.distance_without(target)
    assert sum(calls) == 2 and first[0] == first[2] != first[1]
    np.testing.assert_array_equal(f.distance_without(target), first)
    assert sum(calls) == 2


def test_bos_stands_first_and_stays_when_the_prompt_is_cut(tmp_path: Path) -> None:
    processor = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|pad|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|pad|>": {"id": "<|pad|>", "ids": [1], "tokens": ["<|pad|>"]}},
    }
    folder = with_tokenizer(tmp_path / "bos", post_processor=processor)
    model = load_language_model(LanguageModelConfig(model=folder), "cpu")
    assert model.bos_ids == (1,)
    target = rows_of(("What is 2 + 3?", "5"))
    prompt, response = model.tokenize(["Instruction: What is 2 + 3?\nResponse: ", "5"])
    response.append(model.eos_id)
    whole = plain_distance(model, [1, *prompt], response)
    assert function(model).distance_without(target)[0] == pytest.approx(whole, abs=1e-6)
    room = 1 + 4 + len(response)
    cut = function(shrink(model, room)).distance_without(target)[0]
    assert cut == pytest.approx(plain_distance(model, [1, *prompt[-4:]], response), abs=1e-6)
    assert cut != pytest.approx(whole, abs=1e-6)
    pool, targets = rows_of(*ODD), rows_of(*ODD, first=10)
    f = function(model)
    f._passes.budget.slack = 1
    expected, _ = plain_influence(model, pool, targets)
    np.testing.assert_allclose(f.tile(pool, targets), expected, rtol=0, atol=1e-5)


def test_context_overflow_drops_the_example_first_and_counts(tiny: LanguageModel) -> None:
    pool = rows_of(("Say a long thing", "word " * 60), ("Hi", "ho"))
    target = rows_of(("What is 2 + 3?", "The sum is 5."), first=10)
    prompt, response = tiny.tokenize(["Instruction: What is 2 + 3?\nResponse: ", "The sum is 5."])
    response.append(tiny.eos_id)
    limit = len(prompt) + len(response) + 25
    f = function(shrink(tiny, limit))
    values = f.tile(pool, target)
    assert f.counters == {"truncated_sequences": 1, "truncated_targets": 0}
    long_text = fill(
        DeliftConfig().template_with,
        example_prompt=pool.prompts[0],
        example_response=pool.responses[0],
        prompt=target.prompts[0],
    )
    kept = tiny.tokenize([long_text])[0][-(limit - len(response)) :]
    expected = plain_distance(tiny, prompt, response) - plain_distance(tiny, kept, response)
    assert values[0, 0] == pytest.approx(expected, abs=1e-6)
    assert values[1, 0] == pytest.approx(function(tiny).tile(pool, target)[1, 0], abs=1e-6)


def test_long_pairs_in_a_shared_tile_are_cut_and_the_others_are_not(tiny: LanguageModel) -> None:
    pool, target = (
        rows_of(*ODD, ("Hi", "ho"), ("B" * 50, "c" * 40)),
        rows_of(*ODD[:3], ("x " * 30, "y"), first=10),
    )
    model = shrink(tiny, 150)
    f, done = function(model), list[int]()
    f._passes.budget.slack = 1
    values = f.tile(pool, target, done.append)
    expected, _ = plain_influence(model, pool, target)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)
    grid = next(f._tile_grids(pool, target))
    lengths = np.array([len(p) for p in grid.prefixes])[:, None] + grid.sizes.sum(axis=1)
    assert 0 < f.counters["truncated_sequences"] == (lengths > 150).sum() < 24
    assert sum(done) == 24
    i, j = np.divmod(np.arange(24), 4)
    by_pairs = function(model)
    np.testing.assert_allclose(
        by_pairs.pairs(pool.take(i), target.take(j)), expected.ravel(), rtol=0, atol=1e-5
    )
    assert by_pairs.counters["truncated_sequences"] == f.counters["truncated_sequences"]


def test_a_response_too_long_for_the_context_loses_its_end_and_is_counted(tiny: LanguageModel) -> None:
    pool, target = rows_of(("Hi", "ho"), ("A", "b")), rows_of(("Count", "one two three four " * 5), first=10)
    prompt, response = tiny.tokenize(["Instruction: Count\nResponse: ", target.responses[0]])
    assert len(response) > 12
    f = function(shrink(tiny, 12))
    values = f.tile(pool, target)
    assert f.counters == {"truncated_sequences": 2, "truncated_targets": 1}
    # Only the last prompt token is left in both, so no example can be seen.
    np.testing.assert_array_equal(values, 0)
    expected = plain_distance(tiny, prompt[-1:], response[:11])
    assert f.distance_without(target)[0] == pytest.approx(expected, abs=1e-6)
    assert f.counters["truncated_targets"] == 1


def test_empty_response_is_one_eos(tiny: LanguageModel) -> None:
    target = rows_of(("Say nothing", ""))
    prompt = tiny.tokenize(["Instruction: Say nothing\nResponse: "])[0]
    expected = plain_distance(tiny, prompt, [tiny.eos_id])
    assert function(tiny).distance_without(target)[0] == pytest.approx(expected, abs=1e-6)


def test_no_rows_and_no_columns(tiny: LanguageModel) -> None:
    pool, target = oracle_rows("pool"), oracle_rows("target")
    nobody = np.array([], np.int64)
    assert function(tiny).tile(pool.take(nobody), target).shape == (0, 12)
    assert function(tiny).tile(pool, target.take(nobody)).shape == (24, 0)
    assert function(tiny).pairs(pool.take(nobody), target.take(nobody)).shape == (0,)


def test_bfloat16_stays_near_the_oracle(oracle: dict[str, np.ndarray]) -> None:
    model = load_language_model(LanguageModelConfig(model=TINY, dtype="bfloat16"), "cpu")
    assert model.model.dtype == torch.bfloat16
    pool, target = oracle_rows("pool").take(np.arange(6)), oracle_rows("target")
    difference = np.abs(function(model).tile(pool, target) - oracle["influence"][:6]).max()
    assert 1e-6 < difference < 3e-3


def test_a_probability_that_is_no_number_stops_the_run(tiny: LanguageModel) -> None:
    class Broken(LanguageModel):
        def response_log_probs(self, prompts: Any, responses: Any) -> Any:
            return [np.full(len(r), np.nan, np.float32) for r in responses]

    with pytest.raises(RunError, match='not a number: use dtype = "float32"'):
        function(Broken(**vars(tiny))).distance_without(rows_of(("a", "b")))


def test_an_empty_prompt_side_is_refused_with_the_field(tiny: LanguageModel) -> None:
    with pytest.raises(UserError, match="field influence.delift: a filled prompt has no tokens"):
        function(tiny, template_without="{prompt}").distance_without(rows_of(("", "b")))


def test_key_follows_templates_and_dtype_but_not_batches_or_devices() -> None:
    def key(**changes: Any) -> str:
        return registry.function_key(parse_config({"pool": {"source": "x"}, **changes}))

    base = key(language_model={"model": TINY})
    assert base == key(language_model={"model": TINY, "batch_tokens": 64, "device": "cpu"})
    assert base != key(language_model={"model": TINY, "dtype": "bfloat16"})
    other = {"delift": {"template_without": "Q: {prompt}\nA: "}}
    assert base != key(language_model={"model": TINY}, influence=other)


def test_aggregate_is_the_mean_over_a_tasks_columns(tiny: LanguageModel) -> None:
    matrix = np.array([[1, 2, 6], [0, -2, 4]], np.float32)
    scores = function(tiny).aggregate(matrix, np.array([1, 0, 1]))
    np.testing.assert_array_equal(scores, np.array([[2, 3.5], [-2, 2]], np.float32))
    with pytest.raises(ValueError, match="task 0 has no columns"):
        function(tiny).aggregate(matrix, np.array([1, 1, 1]))


@pytest.mark.parametrize("kind", KINDS)
def test_angles_that_follow_the_length_do_not_mix(kind: str, tmp_path: Path) -> None:
    model = rope_model(kind, tmp_path)
    pool, target = oracle_rows("pool").take(np.arange(6)), oracle_rows("target").take(np.arange(4))
    expected, _ = plain_influence(fresh(model), pool, target)
    sizes = list[tuple[int, int]]()
    f, done = function(model), list[int]()
    hook = model.model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    values = f.tile(pool, target, done.append)
    hook.remove()
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)
    seen = [q for n, q in sizes if n == 1]
    assert min(seen) < 128 < max(seen) and len(seen) == 28 and sum(done) == 24


class Device:
    """Memory for `tokens` of a pass and, `weight` times, of the prefixes that are kept meanwhile."""

    def __init__(self, tokens: int, patch: pytest.MonkeyPatch, weight: int = 1) -> None:
        self.tokens, self.weight = tokens, weight
        self.kept = weakref.WeakSet[Any]()
        self.encoded, self.cells = list[int](), 0
        self.encode, self.follow = delift_passes.encode_together, delift_passes.batch_log_probs
        patch.setattr(delift_passes, "encode_together", self.encode_together)
        patch.setattr(delift_passes, "batch_log_probs", self.batch_log_probs)

    def take(self, tokens: int) -> None:
        held = self.weight * sum(len(p) * max(p.lengths) for p in self.kept)
        if held + tokens > self.tokens:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    def encode_together(self, model: LanguageModel, prefixes: Any) -> Any:
        self.take(self.weight * len(prefixes) * max(map(len, prefixes)))
        self.encoded.append(len(prefixes))
        found = self.encode(model, prefixes)
        self.kept.add(found)
        return found

    def batch_log_probs(self, model: LanguageModel, batch: Any, prefix: Any) -> Any:
        self.take(batch.ids.numel() * len(prefix))
        self.cells += len(batch.starts) * len(prefix)
        return self.follow(model, batch, prefix)

    def model(self, tiny: LanguageModel) -> LanguageModel:
        def whole(prompts: Any, responses: Any) -> Any:
            self.take(
                len(prompts) * max(len(p) + len(r) - 1 for p, r in zip(prompts, responses, strict=True))
            )
            return response_log_probs(tiny, prompts, responses)

        model = replace(tiny)
        object.__setattr__(model, "response_log_probs", whole)
        return model


@pytest.mark.parametrize("tokens", [1100, 900, 700])
def test_kept_prefixes_that_fill_the_memory_give_way(
    tokens: int, tiny: LanguageModel, oracle: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(tokens, monkeypatch)
    f, done = function(device.model(tiny)), list[int]()
    values = f.tile(oracle_rows("pool"), oracle_rows("target"), done.append)
    np.testing.assert_allclose(values, oracle["influence"], rtol=0, atol=1e-6)
    assert sum(done) == 288 and 200 < device.cells <= 288
    assert f._passes.prefix_budget.tokens < 1024 and f._passes.budget.tokens >= 512


def test_a_prefix_that_leaves_room_for_nothing_is_read_with_each_target(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = rows_of(("one " * 60, "two " * 60), ("Hi", "ho " * 20), ("Say", "it " * 22))
    target = rows_of(*((f"What is {k}?", "so " * (6 + 3 * k)) for k in range(12)), first=10)
    expected = function(tiny).tile(pool, target)
    grid = next(iter(function(tiny)._tile_grids(pool, target)))
    whole = max(map(len, grid.prefixes)) + int(grid.sizes.sum(axis=1).max()) - 1
    # Kept keys and values weigh twice, so the longest prefix and any target are more than the whole sequence.
    device = Device(whole, monkeypatch, weight=2)
    f, done = function(device.model(tiny)), list[int]()
    f._passes.budget.slack = 1
    np.testing.assert_allclose(f.tile(pool, target, done.append), expected, rtol=0, atol=1e-6)
    assert device.cells == 24 and sum(done) == 36 and f._passes.budget.tokens >= whole // 2
    device.tokens = whole - 1
    with pytest.raises(RunError, match=f"one sequence of {whole} tokens does not fit"):
        f.tile(pool, target)


def test_one_row_at_the_end_of_the_context_leaves_the_others_their_prefixes(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = rows_of(("one " * 40, "two " * 40), *((f"Hi {k}", "ho " * 20) for k in range(4)))
    target = rows_of(("A", "b " * 30), ("C", "d " * 8), ("E", "f " * 6), ("G", "h " * 5), first=10)
    grid = next(iter(function(tiny)._tile_grids(pool, target)))
    sizes = np.sort(grid.sizes.sum(axis=1))
    context = max(map(len, grid.prefixes)) + int(sizes[-2])
    short = shrink(tiny, context)
    device = Device(10**6, monkeypatch)
    f, done = function(short), list[int]()
    f._passes.budget.slack, f._passes.prefix_budget.slack = 1, 0
    values = f.tile(pool, target, done.append)
    # All but the longest row with the longest target share, in one batch of prefixes.
    assert device.cells == 19 and device.encoded == [5] and sum(done) == 20
    expected, _ = plain_influence(short, pool, target)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)
    assert f.counters["truncated_sequences"] == 1


@pytest.mark.parametrize("length", [None, 40])
def test_token_costs_add_up_to_the_tokens_of_a_tile(tiny: LanguageModel, length: int | None) -> None:
    pool, target = oracle_rows("pool"), oracle_rows("target")
    f = function(tiny)
    shared, own = f.token_costs(pool, target)
    assert shared.shape == (24,) and own.shape == (12,)
    (grid,) = f._tile_grids(pool, target)
    assert shared.sum() + 24 * own.sum() == grid.tokens(shared=True)
    assert 12 * shared.sum() + 24 * own.sum() == grid.tokens(shared=False)
    if length is not None:
        cut = function(shrink(tiny, length)).token_costs(pool, target)
        assert [c.max() for c in cut] == [length, length]
        np.testing.assert_array_equal(cut[0], np.minimum(shared, length))


def test_token_costs_load_no_weights() -> None:
    config = parse_config({"pool": {"source": "x"}, "language_model": {"model": TINY}})
    f = Delift.from_config(config, "cpu")
    f._load_model = lambda: pytest.fail("weights were loaded")
    shared, own = f.token_costs(oracle_rows("pool"), oracle_rows("target"))
    assert (shared > 10).all() and (own > 5).all()


def test_token_costs_where_tokens_reach_across_the_border(tiny: LanguageModel) -> None:
    pool, target = oracle_rows("pool"), oracle_rows("target")
    f = function(tiny, template_with="{example_prompt} {example_response}{prompt}")
    assert halves(lambda i, j: f._encode(pool, target, i, j), 24, 12) is None
    shared, own = f.token_costs(pool, target)
    exact = sum(grid.tokens(shared=True) for grid in f._tile_grids(pool, target))
    assert shared.sum() + 24 * own.sum() == pytest.approx(exact, rel=0.05)


def test_token_costs_with_a_single_row_or_column(tiny: LanguageModel) -> None:
    pool, target = oracle_rows("pool"), oracle_rows("target")
    f = function(tiny)
    for rows, columns in ((pool.take(np.arange(1)), target), (pool, target.take(np.arange(1)))):
        shared, own = f.token_costs(rows, columns)
        whole = sum(grid.tokens(shared=False) for grid in f._tile_grids(rows, columns))
        assert len(columns) * shared.sum() + len(rows) * own.sum() == whole


def test_values_do_not_depend_on_what_the_function_computed_before(tiny: LanguageModel) -> None:
    """Bit by bit: a run after a kill, or beside another, comes by its shards in another order."""
    rows, columns = oracle_rows("pool"), oracle_rows("target")
    plain, used = function(tiny), function(tiny)
    used.pairs(rows.take(np.array([3, 1])), columns.take(np.array([5, 2])))
    used.tile(rows.take(np.arange(2)), columns.take(np.array([7])))
    assert np.array_equal(used.tile(rows, columns), plain.tile(rows, columns))
