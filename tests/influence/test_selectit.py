"""SelectIT against the oracle and one prompt at a time; its digits, prompts, sharing, counts, keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from influence.plain_selectit import sentence_score
from influence.plain_selectit import token_probability as plain_probability
from rope_models import KINDS, fresh, rope_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from nncift_core.batching import TokenBudget
from nncift_core.config import LanguageModelConfig, parse_config
from nncift_core.errors import RunError, UserError
from nncift_core.influence import next_tokens
from nncift_core.influence.contract import Rows
from nncift_core.influence.next_tokens import common_start, digit_forms, prompt_log_probs, way_to_share
from nncift_core.influence.selectit import (
    Rater,
    SelectIT,
    Source,
    base_score,
    grade_distribution,
    rating_prompts,
    sentence_level,
    token_level,
)
from nncift_core.language_models import LanguageModel, load_language_model

ORACLES = Path(__file__).parents[1] / "data" / "oracles"
TINY = ORACLES / "tiny-lm"
SHORT = ("{prompt} / {response}\nGood?\n", "{prompt} / {response}\nTrue, from 1 to 5?\n")


@pytest.fixture(scope="module")
def tiny() -> LanguageModel:
    torch.set_num_threads(1)
    return load_language_model(LanguageModelConfig(model=str(TINY)), "cpu")


@pytest.fixture(scope="module")
def oracle() -> dict[str, np.ndarray]:
    with np.load(ORACLES / "selectit.npz", allow_pickle=False) as data:
        return dict(data)


@pytest.fixture(scope="module")
def pool() -> Rows:
    lines = (ORACLES / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    found = [x for x in map(json.loads, lines) if x["side"] == "pool"][:10]
    return rows_of(*((x["prompt"], x["response"]) for x in found))


def rows_of(*examples: tuple[str, str]) -> Rows:
    return Rows(np.arange(len(examples)), tuple(p for p, _ in examples), tuple(r for _, r in examples))


def asking(
    model: LanguageModel, prompts: Any = None, batch_tokens: int = 8192, alpha: float = 0.2
) -> SelectIT:
    given = rating_prompts(prompts if prompts is None else [str(p) for p in prompts])
    return SelectIT([Source("tiny", model.key, lambda: model)], given, alpha, batch_tokens)


def plain_values(model: LanguageModel, prompts: Any, rows: Rows, alpha: float = 0.2) -> np.ndarray:
    """One prompt at a time; BOS first, the first tokens lost where the context ends."""
    out = []
    for x, y in zip(rows.prompts, rows.responses, strict=True):
        texts = [_filled(str(p), x, y) for p in prompts]
        room = (model.context_length or 10**9) - len(model.bos_ids)
        ids = [[*model.bos_ids, *tokens[-room:]] for tokens in model.tokenize(texts)]
        out.append(sentence_score(plain_probability(model.model, ids, digit_forms(model).values()), alpha))
    return np.array(out)


def _filled(template: str, x: str, y: str) -> str:
    head, _, rest = template.partition("{prompt}")
    middle, _, tail = rest.partition("{response}")
    return head + x + middle + y + tail


def changed(folder: Path, tokenizer: dict[str, Any], settings: dict[str, Any] | None = None) -> str:
    """A copy of tiny-lm with changes in tokenizer.json and tokenizer_config.json (None: key removed)."""
    folder.mkdir()
    for path in TINY.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    for name, changes in (("tokenizer.json", tokenizer), ("tokenizer_config.json", settings or {})):
        data = json.loads((folder / name).read_text(encoding="utf-8")) | changes
        kept = {k: v for k, v in data.items() if v is not None or name == "tokenizer.json"}
        (folder / name).write_text(json.dumps(kept), encoding="utf-8")
    return str(folder)


@contextmanager
def memory_for(model: LanguageModel, tokens: int) -> Iterator[list[int]]:
    """A device that holds `tokens` ids of a forward pass at once; gives the sizes that were held."""
    held: list[int] = []

    def check(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].numel() > tokens:
            raise torch.OutOfMemoryError("out of memory")
        held.append(kwargs["input_ids"].numel())

    hook = model.model.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield held
    finally:
        hook.remove()


def test_every_step_equals_the_oracle(tiny: LanguageModel, oracle: dict[str, np.ndarray], pool: Rows) -> None:
    f, done = asking(tiny, oracle["rating_prompts"]), []
    values = f.values(pool, done.append)
    assert values.dtype == np.float32 and sum(done) == 10
    np.testing.assert_allclose(values, oracle["sentence_level"], rtol=0, atol=2e-6)
    (rater,) = f.raters
    for forms, name in ((rater.forms, ""), (rater.forms[:1], "bare_"), (rater.forms[1:], "spaced_")):
        p = f.token_probability(replace(rater, forms=forms), pool)
        both = oracle["token_probability"]
        expected = both.sum(axis=2) if not name else both[:, :, 0 if name == "bare_" else 1]
        np.testing.assert_allclose(p, expected, rtol=0, atol=2e-6)
        grades = grade_distribution(p)
        if not name:
            np.testing.assert_allclose(grades, oracle["P"], rtol=0, atol=2e-6)
        np.testing.assert_array_equal(base_score(grades), oracle[f"{name}base_score"])
        np.testing.assert_allclose(token_level(grades), oracle[f"{name}token_level"], rtol=0, atol=2e-6)
        s_sent = sentence_level(token_level(grades), 0.2)
        np.testing.assert_allclose(s_sent, oracle[f"{name}sentence_level"], rtol=0, atol=2e-6)
    assert np.abs(values - oracle["sentence_level_ddof1"]).max() > 1e-5
    assert f.counters["truncated_examples"] == 0


def test_own_prompts_equal_one_prompt_at_a_time(tiny: LanguageModel, pool: Rows) -> None:
    for alpha in (0.2, 5.0):
        expected = plain_values(tiny, rating_prompts(None), pool, alpha)
        np.testing.assert_allclose(asking(tiny, alpha=alpha).values(pool), expected, rtol=0, atol=1e-5)
    assert expected.std() > 1e-4


@pytest.mark.parametrize("own", [True, False])
def test_batches_order_and_sharing_do_not_change_values(
    tiny: LanguageModel,
    oracle: dict[str, np.ndarray],
    pool: Rows,
    monkeypatch: pytest.MonkeyPatch,
    own: bool,
) -> None:
    prompts = None if own else oracle["rating_prompts"]
    expected = asking(tiny, prompts).values(pool)
    tight = asking(tiny, prompts, 64)
    done: list[int] = []
    np.testing.assert_allclose(tight.values(pool, done.append), expected, rtol=0, atol=1e-5)
    assert sum(done) == 10 and len(done) >= (10 if own else 2)
    back = asking(tiny, prompts).values(pool.take(np.arange(10)[::-1]))[::-1]
    np.testing.assert_allclose(back, expected, rtol=0, atol=1e-5)
    alone = [asking(tiny, prompts).values(pool.take(np.array([k])))[0] for k in range(10)]
    np.testing.assert_allclose(alone, expected, rtol=0, atol=1e-5)
    monkeypatch.setattr(next_tokens, "can_share", lambda model: False)
    np.testing.assert_allclose(asking(tiny, prompts).values(pool), expected, rtol=0, atol=1e-5)


def test_sharing_saves_tokens(tiny: LanguageModel, oracle: dict[str, np.ndarray], pool: Rows) -> None:
    next_tokens.can_share(tiny)  # looks at the model once, by passes of its own
    for prompts, most in ((None, 0.5), (oracle["rating_prompts"], 0.92)):
        sequences, _ = asking(tiny, prompts)._sequences(tiny, pool)
        with memory_for(tiny, 10**9) as held:
            prompt_log_probs(tiny, sequences, [1], TokenBudget(8192, slack=1))  # next to no padding
        assert sum(held) < most * sum(len(ids) for row in sequences for ids in row)


def test_which_way_saves_most() -> None:
    head = list(range(100, 130))
    by_row = [[[*head, r, r, r, k, k] for k in range(3)] for r in range(2)]
    assert way_to_share(by_row, np.arange(2)) == "row"
    by_prompt = [[[k, *head, r, r, k] for k in range(3)] for r in range(4)]
    assert way_to_share(by_prompt, np.arange(4)) == "prompt"
    assert way_to_share(by_prompt, np.arange(1)) == way_to_share(by_prompt, np.arange(0)) == "none"
    assert common_start([[1, 2, 3], [1, 2, 4, 5], [1, 2, 3, 9]]) == 2
    assert common_start([[1, 2], [1, 2, 3]]) == 1  # one id is left over
    assert common_start([[7, 8, 9]]) == 2 and common_start([[1], [2]]) == 0


def of_kind(tiny: LanguageModel, kind: str) -> LanguageModel:
    """A random model with absolute positions, or with a sliding window shorter than the sequences."""
    torch.manual_seed(5)
    if kind == "gpt2":
        shape: Any = GPT2Config(vocab_size=1000, n_embd=32, n_layer=2, n_head=2, n_positions=128)
        return replace(tiny, model=GPT2LMHeadModel(shape).eval())
    shape = MistralConfig(
        vocab_size=1000, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=8,
    )  # fmt: skip
    return replace(tiny, model=MistralForCausalLM(shape).eval())


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral"])
@pytest.mark.parametrize("way", ["row", "prompt", "none"])
def test_every_way_gives_the_same_for_any_lengths_and_model(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch, way: str, kind: str
) -> None:
    model = tiny if kind == "llama" else of_kind(tiny, kind)
    assert next_tokens.can_share(model) == (kind != "mistral")
    rng = np.random.default_rng(3)

    def draw(n: int) -> list[int]:
        drawn: list[int] = rng.integers(5, 900, n).tolist()
        return drawn

    starts, heads = [draw(n) for n in (40, 3, 0, 17, 17)], [draw(n) for n in (2, 5, 1)]
    sequences = [[h + s + draw(4) for h in heads] for s in starts]
    if way == "row":
        sequences = [[s + h + draw(4) for h in heads] for s in starts]
    monkeypatch.setattr(next_tokens, "way_to_share", lambda prompts, rows: way)
    found = prompt_log_probs(model, sequences, [7, 3], TokenBudget(300), np.arange(5) == 4)
    with torch.inference_mode():
        for r, row in enumerate(sequences):
            for k, ids in enumerate(row):
                logits = model.model(input_ids=torch.tensor([ids])).logits[0, -1]
                expected = torch.log_softmax(logits, -1)[[7, 3]].numpy()
                np.testing.assert_allclose(found[r, k], expected, rtol=0, atol=3e-5)


def test_a_tokenizer_without_a_digit_is_refused_by_name(tmp_path: Path) -> None:
    no_three = {"normalizer": {"type": "Replace", "pattern": {"String": "3"}, "content": "three"}}
    changed(tmp_path / "lm", no_three)
    f = SelectIT.from_config(job(tmp_path, {"model": "./lm"}), "cpu")
    with pytest.raises(UserError, match='"./lm" has no single tokens for the grades 1 to 5'):
        f.values(rows_of(("a", "b")))


def test_a_form_that_lacks_a_digit_does_not_count(tmp_path: Path, tiny: LanguageModel, pool: Rows) -> None:
    assert set(digit_forms(tiny)) == {"bare", "spaced"}
    bare = {"normalizer": {"type": "Replace", "pattern": {"String": " 3"}, "content": " three"}}
    model = load_language_model(LanguageModelConfig(model=changed(tmp_path / "lm", bare)), "cpu")
    assert digit_forms(model) == {"bare": digit_forms(tiny)["bare"]}
    rows = pool.take(np.arange(3))
    values = asking(model).values(rows)
    np.testing.assert_allclose(values, plain_values(model, rating_prompts(None), rows), rtol=0, atol=1e-5)
    assert np.abs(values - asking(tiny).values(rows)).max() > 1e-5


def test_a_tokenizer_that_puts_a_space_before_a_text_keeps_the_forms_apart(tmp_path: Path) -> None:
    spaced = {
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        }
    }
    model = load_language_model(LanguageModelConfig(model=changed(tmp_path / "lm", spaced)), "cpu")
    forms = digit_forms(model)
    assert model.tokenize(["5"])[0] == [forms["spaced"][4]] != [forms["bare"][4]]
    assert [model.tokenizer.decode([k]) for k in forms["bare"]] == list("12345")


def test_digits_of_sentence_pieces_and_of_digit_splitting_tokenizers(
    tmp_path: Path, tiny: LanguageModel
) -> None:
    letters = ["<unk>", "\u2581", ":", "\n", *"12345"]
    pieces = Tokenizer(models.Unigram([(letter, -1.0) for letter in letters], unk_id=0))
    pieces.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    pieces.decoder = decoders.Metaspace(prepend_scheme="always")
    sentence = replace(tiny, tokenizer=PreTrainedTokenizerFast(tokenizer_object=pieces))
    assert sentence.tokenize(["5"]) == [[1, 8]]  # two tokens, so asking for "5" alone would find none
    assert digit_forms(sentence) == {"bare": (4, 5, 6, 7, 8)}
    digits = [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "add_prefix_space": False}]
    digits[1] |= {"trim_offsets": True, "use_regex": True}
    split = {"pre_tokenizer": {"type": "Sequence", "pretokenizers": digits}}
    model = load_language_model(LanguageModelConfig(model=changed(tmp_path / "lm", split)), "cpu")
    assert len(model.tokenize([" 5"])[0]) == 2
    assert digit_forms(model) == {"bare": digit_forms(tiny)["bare"]}


def test_chat_asks_in_one_user_message(tmp_path: Path, pool: Rows) -> None:
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    folder = changed(tmp_path / "chat", {}, {"chat_template": template})
    chat = load_language_model(LanguageModelConfig(model=folder, template="chat"), "cpu")
    texts = ["<user>" + p + "<end><assistant>" for p in SHORT]
    rows = pool.take(np.arange(4))
    found = asking(chat, SHORT).values(rows)
    np.testing.assert_allclose(found, plain_values(chat, texts, rows), rtol=0, atol=1e-5)
    plainly = load_language_model(LanguageModelConfig(model=folder), "cpu")
    assert np.abs(found - asking(plainly, SHORT).values(rows)).max() > 1e-4


def test_bos_stands_first_even_where_a_prompt_is_cut(tmp_path: Path, pool: Rows) -> None:
    bos = {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<|pad|>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<|pad|>": {"id": "<|pad|>", "ids": [1], "tokens": ["<|pad|>"]}},
        }
    }
    model = load_language_model(LanguageModelConfig(model=changed(tmp_path / "bos", bos)), "cpu")
    assert model.bos_ids == (1,)
    for context in (1024, 60):
        short = replace(model, context_length=context)
        f = asking(short, SHORT)
        np.testing.assert_allclose(f.values(pool), plain_values(short, SHORT, pool), rtol=0, atol=1e-5)
        assert (f.counters["truncated_examples"] > 0) == (context == 60)


def test_padding_side_and_pad_token_do_not_matter(tmp_path: Path, tiny: LanguageModel, pool: Rows) -> None:
    settings = {"pad_token": None, "padding_side": "left"}
    model = load_language_model(LanguageModelConfig(model=changed(tmp_path / "nopad", {}, settings)), "cpu")
    assert model.tokenizer.pad_token_id is None
    np.testing.assert_allclose(asking(model).values(pool), asking(tiny).values(pool), rtol=0, atol=1e-6)


def test_odd_texts(tiny: LanguageModel) -> None:
    rows = rows_of(
        ("", ""),
        ("{response} and {prompt}", "{prompt} {0} }{"),
        ("<|endoftext|> 😀 שלום", "\\1 \n\n"),
        ("What is 2 + 3?", "5"),
    )
    values = asking(tiny).values(rows)
    np.testing.assert_allclose(values, plain_values(tiny, rating_prompts(None), rows), rtol=0, atol=1e-5)
    assert len(set(values.tolist())) == 4
    assert asking(tiny).values(rows.take(np.array([], np.int64))).shape == (0,)
    with pytest.raises(UserError, match="field influence.selectit.prompts: a filled prompt has no tokens"):
        asking(tiny, ["{prompt}{response}"]).values(rows_of(("", "")))


def test_rows_longer_than_the_context_lose_their_start_and_are_counted(tiny: LanguageModel) -> None:
    rows = rows_of(("Say a lot", "word " * 70), ("Hi", "ho"), ("Count", "1 2 3"))
    short = replace(tiny, context_length=64)
    f = asking(short, SHORT)
    values = f.values(rows)
    assert f.counters == {"truncated_examples": 1}
    np.testing.assert_allclose(values, plain_values(short, SHORT, rows), rtol=0, atol=1e-5)
    assert abs(values[0] - asking(tiny, SHORT).values(rows)[0]) > 1e-6


def test_models_are_weighted_by_their_parameters(pool: Rows) -> None:
    rows = pool.take(np.arange(5))

    def f(*models: str) -> SelectIT:
        return SelectIT.from_config(job(models=list(models)), "cpu")

    one, two, both = f(str(TINY)), f("builtin"), f("builtin", str(TINY))
    done: list[int] = []
    values = both.values(rows, done.append)
    w = np.array([two.raters[0].parameters, one.raters[0].parameters])
    assert w.tolist() == [1420672, 150336] and sum(done) == 5
    expected = (w[0] * two.values(rows) + w[1] * one.values(rows)) / w.sum()
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-6)
    assert both.cost.per_row == 10 and one.cost.per_row == SelectIT.cost.per_row == 5
    assert both.key() == f(str(TINY), "builtin").key() not in {one.key(), two.key()}


def test_running_out_of_memory_halves_the_batches_and_keeps_the_values(
    tiny: LanguageModel, oracle: dict[str, np.ndarray], pool: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    next_tokens.can_share(tiny)
    for prompts in (None, oracle["rating_prompts"]):
        expected, f = asking(tiny, prompts).values(pool), asking(tiny, prompts)
        longest = max(len(s) for row in f._sequences(tiny, pool)[0] for s in row)
        with memory_for(tiny, longest + 10) as held:
            np.testing.assert_allclose(f.values(pool), expected, rtol=0, atol=1e-5)
            assert max(held) <= longest + 10
        assert f.raters[0].budget.tokens < 8192 and "language_model.batch_tokens" in caplog.text
    with memory_for(tiny, 50), pytest.raises(RunError, match="does not fit into the memory of cpu"):
        asking(tiny, oracle["rating_prompts"]).values(pool)


def test_a_row_whose_prompts_do_not_fit_together_is_asked_one_by_one(tiny: LanguageModel) -> None:
    tail = "\nWhat would you say about it, all things considered, on a scale from one to five?\nScore:\n"
    prompts = [f"{{prompt}} {{response}}{k}{tail}" for k in range(5)]
    rows = rows_of(("Name a colour", "red"))
    expected = plain_values(tiny, prompts, rows)
    next_tokens.can_share(tiny)
    with memory_for(tiny, 100) as held:
        np.testing.assert_allclose(asking(tiny, prompts).values(rows), expected, rtol=0, atol=1e-5)
    assert 0 < max(held) <= 100


def test_a_probability_that_is_no_number_stops_the_run(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: Any, prompts: Any, ids: Any, *_: Any) -> np.ndarray:
        return np.full((len(prompts), len(prompts[0]), len(ids)), np.nan, np.float32)

    monkeypatch.setattr(next_tokens, "prompt_log_probs", broken)
    with pytest.raises(RunError, match='not a number: use dtype = "float32"'):
        asking(tiny).values(rows_of(("a", "b")))


def test_own_prompts_share_their_start_and_end_where_the_digit_begins() -> None:
    prompts = rating_prompts(None)
    heads = {p.partition("{response}")[0] for p in prompts}
    assert len(prompts) == len(set(prompts)) == 5 and len(heads) == 1
    assert all(p.endswith("\n") and p.count("{prompt}") == p.count("{response}") == 1 for p in prompts)


def test_prompts_come_from_a_list_or_a_file_and_are_checked(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(f"prompts = {json.dumps(SHORT)}\n", encoding="utf-8")
    assert rating_prompts("p.toml", str(tmp_path)) == rating_prompts(list(SHORT)) == SHORT
    for content, message in (
        ("prompts = [", "p.toml field influence.selectit.prompts: broken TOML"),
        ("other = 1", "p.toml field influence.selectit.prompts: has no list `prompts`"),
        ("prompts = []", "p.toml field prompts: is no list of texts"),
        ('prompts = ["{prompt} {response}", 3]', "p.toml field prompts: is no list of texts"),
        ('prompts = ["{prompt} {response}", "{response}"]', "prompt 2 lacks the placeholder {prompt}"),
    ):
        (tmp_path / "p.toml").write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            rating_prompts("p.toml", str(tmp_path))
    with pytest.raises(UserError, match='field influence.selectit.prompts: no file "none.toml"'):
        rating_prompts("none.toml", str(tmp_path))
    with pytest.raises(UserError, match="field influence.selectit.prompts: prompt 1 lacks .*{response}"):
        rating_prompts(["{prompt}"])


def job(base_dir: Path | None = None, language_model: Any = None, **selectit: Any) -> Any:
    return parse_config(
        {
            "pool": {"source": "x"},
            "language_model": {"model": str(TINY)} | (language_model or {}),
            "influence": {"function": "selectit", "selectit": selectit},
        },
        base_dir=base_dir,
    )


def test_key_follows_models_prompts_and_alpha_and_nothing_else(tmp_path: Path) -> None:
    key = SelectIT.key_of
    base = key(job())
    assert base == SelectIT.from_config(job(), "cpu").key()
    assert base == key(job(language_model={"batch_tokens": 64, "device": "cpu"}))
    assert base == key(job(models=[str(TINY)])) == key(job(prompts=list(rating_prompts(None))))
    for name in ("a", "b"):
        (tmp_path / f"{name}.toml").write_text(f"prompts = {json.dumps(SHORT)}\n", encoding="utf-8")
    (tmp_path / "lm").symlink_to(TINY)
    assert base == key(job(tmp_path, models=["./lm"]))
    short = key(job(prompts=list(SHORT)))
    assert short == key(job(tmp_path, prompts="a.toml")) == key(job(tmp_path, prompts="b.toml"))
    others = [
        job(alpha=0.3),
        job(models=["builtin"]),
        job(models=[str(TINY), "builtin"]),
        job(language_model={"dtype": "bfloat16"}),
        job(prompts=list(SHORT[:1])),
    ]
    assert len({base, short, *map(key, others)}) == 7


def test_an_unknown_model_names_the_setting() -> None:
    with pytest.raises(UserError, match='field influence.selectit.models: no folder "./none"'):
        SelectIT.key_of(job(models=[str(TINY), "./none"]))


def test_each_model_is_loaded_once_and_only_when_asked(tiny: LanguageModel) -> None:
    loaded: list[str] = []

    def load() -> LanguageModel:
        loaded.append("tiny")
        return tiny

    f = SelectIT([Source("tiny", tiny.key, load)], SHORT)
    assert f.key() and loaded == []
    f.values(rows_of(("a", "b")))
    f.values(rows_of(("c", "d")))
    assert loaded == ["tiny"] and isinstance(f.raters[0], Rater)


@pytest.mark.parametrize("kind", KINDS)
def test_angles_that_follow_the_length_do_not_mix(kind: str, tmp_path: Path, pool: Rows) -> None:
    model = rope_model(kind, tmp_path, limit=64)
    f = asking(model, SHORT)
    f.raters[0].budget.slack = 0
    lengths = [len(s) for row in f._sequences(model, pool)[0] for s in row]
    assert min(lengths) < 64 < max(lengths)
    expected = plain_values(fresh(model), SHORT, pool)
    np.testing.assert_allclose(f.values(pool), expected, rtol=0, atol=1e-5)


def test_a_common_start_that_memory_does_not_hold_is_asked_with_each_row(
    tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = ["You are a strict teacher and rate all you are shown from 1 to 5. {prompt} {response} Grade:"]
    rows = rows_of(*((f"what is {k}", f"it is {k}") for k in range(8)))
    expected, f = plain_values(tiny, prompts, rows), asking(tiny, prompts)
    assert way_to_share(f._sequences(tiny, rows)[0], np.arange(8)) == "prompt"
    kept: list[bool] = []

    def full(*args: Any) -> Any:
        kept.append(True)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    ask = next_tokens.next_token_log_probs

    def after(model: Any, tails: Any, ids: Any, prefix: Any = None) -> np.ndarray:
        return ask(model, tails, ids) if prefix is None else full()

    done: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(next_tokens, "encode_prefixes", full)
        np.testing.assert_allclose(f.values(rows, done.append), expected, rtol=0, atol=1e-5)
    assert kept == [True] and sum(done) == 8
    with monkeypatch.context() as patch:
        patch.setattr(next_tokens, "next_token_log_probs", after)
        np.testing.assert_allclose(f.values(rows, done.append), expected, rtol=0, atol=1e-5)
    assert len(kept) > 1 and sum(done) == 16 and f.raters[0].budget.tokens == 8192
