"""LESS against the oracle and a plain reference, its state, its keys and its counts."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gradients.small import (
    ORACLES,
    QKVO,
    TINY,
    less,
    oracle_checkpoint,
    oracle_rows,
    oracle_state,
    rows_of,
    sequences_of,
    tiny,
    values,
)
from influence.plain_less import plain_direction, plain_gradient

from nncift_core.config import LanguageModelConfig, LessConfig, parse_config
from nncift_core.errors import IntegrityError, RunError
from nncift_core.gradients.features import GradientFeatures
from nncift_core.gradients.projection import Projection
from nncift_core.influence.contract import Rows
from nncift_core.influence.less import Less
from nncift_core.influence.registry import create, function_key, implementation
from nncift_core.language_models import LanguageModel, load_language_model

POOL, TARGET = oracle_rows("pool"), oracle_rows("target")


@pytest.fixture(scope="module")
def oracle() -> dict[str, np.ndarray]:
    with np.load(ORACLES / "less.npz", allow_pickle=False) as data:
        return dict(data)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return tiny()


@pytest.fixture(scope="module")
def state(model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return oracle_state(tmp_path_factory.mktemp("oracle") / "state", model.key)


def made(state: Path, **changes: Any) -> Less:
    function = less(**changes)
    function.load_state(state)
    return function


@pytest.fixture(scope="module")
def function(state: Path) -> Less:
    return made(state)


@pytest.fixture(scope="module")
def plain(model: LanguageModel) -> list[dict[str, Any]]:
    """Per checkpoint: gradients of pool and target, moments; one example at a time."""
    adapted = less().adapted
    found = []
    for k in (1, 2):
        checkpoint = oracle_checkpoint(k, model.key)
        adapted.set_weights(checkpoint.weight)
        side = {}
        for name, rows in (("pool", POOL), ("target", TARGET)):
            s = sequences_of(adapted.model, rows)
            pairs = zip(s.prompts, s.responses, strict=True)
            side[name] = torch.stack([plain_gradient(adapted, list(p), list(r))[0] for p, r in pairs])
        m, v = adapted.flat(checkpoint.exp_avg).double(), adapted.flat(checkpoint.exp_avg_sq).double()
        found.append({**side, "m": m, "v": v, "rate": checkpoint.learning_rate, "steps": checkpoint.steps})
    return found


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(b, dim=1).T


def test_influence_equals_the_oracle(function: Less, oracle: dict[str, np.ndarray]) -> None:
    found = values(function, POOL, TARGET)
    assert found.shape == (24, 12) and found.dtype == np.float32
    np.testing.assert_allclose(found, oracle["influence"], rtol=0, atol=2e-6)
    assert function.counters["truncated_examples"] == 0


def test_cosines_norms_and_losses_equal_the_oracle_at_each_checkpoint(
    function: Less, oracle: dict[str, np.ndarray]
) -> None:
    f: GradientFeatures = function._features
    pool, target = sequences_of(f.adapted.model, POOL), sequences_of(f.adapted.model, TARGET)
    for c in (0, 1):
        f.load(oracle_checkpoint(c + 1, f.adapted.model.key))
        direction, gradient, other = f.compute(pool, True), f.compute(pool, False), f.compute(target, False)
        np.testing.assert_allclose(
            direction.vectors @ other.vectors.T, oracle["cosine"][c], rtol=0, atol=2e-6
        )
        for mine, name in (
            (direction.norms, "pool_direction_norm"),
            (gradient.norms, "pool_gradient_norm"),
            (gradient.losses, "pool_loss"),
            (other.norms, "target_gradient_norm"),
            (other.losses, "target_loss"),
        ):
            np.testing.assert_allclose(mine, oracle[name][c], rtol=1e-5)


def test_pairs_are_entries_of_the_tile(function: Less, oracle: dict[str, np.ndarray]) -> None:
    done: list[int] = []
    i, j = np.array([7, 0, 23, 8, 7]), np.array([11, 5, 0, 5, 3])
    rows = replace(POOL, features=function.features(POOL, "row")).take(i)
    columns = replace(TARGET, features=function.features(TARGET, "column")).take(j)
    found = function.pairs(rows, columns, done.append)
    np.testing.assert_allclose(found, oracle["influence"][i, j], rtol=0, atol=2e-6)
    assert sum(done) == 5
    with pytest.raises(ValueError, match="came without"):
        function.pairs(POOL, columns)


@pytest.mark.parametrize(
    ("mistake", "least"),
    [
        ("none", None), ("eps outside the root", 1e-3), ("bias correction", 1e-3), ("plain pool side", 0.1),
        ("Adam on both sides", 0.1), ("equal weights", 1e-2),
    ],
)  # fmt: skip
def test_the_oracle_tells_mistakes_apart(
    plain: list[dict[str, Any]], oracle: dict[str, np.ndarray], mistake: str, least: float | None
) -> None:
    total = torch.zeros(24, 12, dtype=torch.float64)
    rates = [1.0, 1.0] if mistake == "equal weights" else [x["rate"] for x in plain]
    for x, rate in zip(plain, rates, strict=True):
        m, v, g, target = x["m"], x["v"], x["pool"], x["target"]
        left = plain_direction(g, m, v)
        if mistake == "eps outside the root":
            left = (0.9 * m + 0.1 * g) / ((0.999 * v + 0.001 * g**2).sqrt() + 1e-8)
        elif mistake == "bias correction":
            t = x["steps"] + 1
            first, second = (0.9 * m + 0.1 * g) / (1 - 0.9**t), (0.999 * v + 0.001 * g**2) / (1 - 0.999**t)
            left = first / (second + 1e-8).sqrt()
        elif mistake == "plain pool side":
            left = g
        elif mistake == "Adam on both sides":
            target = plain_direction(target, m, v)
        total += rate / sum(rates) * cosine(left, target)
    off = np.abs(total.numpy() - oracle["influence"]).max()
    assert off < 1e-6 if least is None else off > least


def test_summed_losses_and_a_missing_eos_are_seen(
    model: LanguageModel, state: Path, oracle: dict[str, np.ndarray]
) -> None:
    class NoEnd(Less):
        def _sequences(self, rows: Rows) -> Any:
            sequences, cut = super()._sequences(rows)
            return replace(sequences, responses=[list(r[:-1]) for r in sequences.responses]), cut

    f = less()
    no_end = NoEnd(f._load_model, model.key, f.config)
    no_end.load_state(state)
    assert np.abs(values(no_end, POOL, TARGET) - oracle["influence"]).max() > 0.1
    # Adam's direction is no multiple of the gradient, so a sum instead of a mean shows in the norms.
    sizes = np.array([len(r) for r in sequences_of(model, POOL).responses])
    assert (np.abs(oracle["pool_gradient_norm"] * sizes / oracle["pool_gradient_norm"] - 1) > 1e-3).all()


def test_batches_order_and_shards_change_nothing(function: Less, state: Path) -> None:
    whole = values(function, POOL, TARGET)
    np.testing.assert_allclose(values(made(state, batch_tokens=64), POOL, TARGET), whole, rtol=0, atol=1e-5)
    order = np.random.default_rng(0).permutation(24)
    shuffled = values(function, POOL.take(order), TARGET)
    np.testing.assert_allclose(shuffled, whole[order], rtol=0, atol=1e-5)
    shards = [values(function, POOL.take(np.arange(k, min(24, k + 7))), TARGET) for k in range(0, 24, 7)]
    np.testing.assert_allclose(np.concatenate(shards), whole, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(whole[6], whole[20])
    nobody = POOL.take(np.array([], np.int64))
    assert function.features(nobody, "row").shape == (0, 2 * 3584)


def test_a_projection_to_8192_keeps_influence(state: Path, oracle: dict[str, np.ndarray]) -> None:
    """The +-1 matrix proper: gradients of these adapters are shorter than 8,192 and would be kept."""
    f = made(state)
    p = Projection(3584, 8192, "rademacher", 1)
    p.keeps, p.width = False, 8192
    f._features.projection = p
    found = values(f, POOL, TARGET)
    assert np.corrcoef(found.ravel(), oracle["influence"].ravel())[0, 1] > 0.99
    error = np.abs(found - oracle["influence"])
    assert 0.001 < np.median(error) < 0.012 and error.max() < 0.05


@pytest.mark.parametrize("kind", ["rademacher", "count-sketch"])
def test_projected_features_agree_with_whole_ones(
    state: Path, oracle: dict[str, np.ndarray], kind: str
) -> None:
    """At K = 2,048 a cosine is off by about 1 / sqrt(K) = 0.022, and influence by less."""
    f = made(state, projection=kind, projection_dim=2048)
    assert f.features(TARGET, "column").shape == (12, 2 * 2048)
    error = values(f, POOL, TARGET) - oracle["influence"]
    assert 0.002 < error.std() < 0.03
    small = made(state, projection=kind, projection_dim=2048, batch_tokens=64)
    np.testing.assert_allclose(values(small, POOL, TARGET), error + oracle["influence"], rtol=0, atol=1e-5)
    other = values(made(state, projection=kind, projection_dim=2048, seed=1), POOL, TARGET)
    assert np.abs(other - error - oracle["influence"]).max() > 0.005


def test_progress_counts_whole_rows(function: Less) -> None:
    done: list[int] = []
    function.features(POOL, "row", done.append)
    assert sum(done) == 24 and min(done) > 0


def test_state_is_fitted_written_and_taken_up(tmp_path: Path) -> None:
    settings = {"epochs": 2, "batch_size": 4, "learning_rate": 0.01, "projection_dim": 512}
    f = less(projection="rademacher", **settings)
    calls: list[tuple[int, int]] = []
    pool = POOL.take(np.arange(10))
    f.fit_state(pool, tmp_path, lambda k, n: calls.append((k, n)))
    assert calls[-1] == (6, 6)
    files = sorted(p.name for p in tmp_path.iterdir())
    assert files == ["checkpoint-1.safetensors", "checkpoint-2.safetensors", "state.json"]
    about = json.loads((tmp_path / "state.json").read_text())
    assert about["rows"] == 10 and about["steps"] == 6 and about["losses"][1] < about["losses"][0]
    assert sum(about["weights"]) == pytest.approx(1) and about["weights"][0] > about["weights"][1]
    ratio = about["learning_rates"][0] / about["learning_rates"][1]
    assert about["weights"][0] / about["weights"][1] == pytest.approx(ratio)
    f.load_state(tmp_path)
    here = f.features(TARGET, "column")
    there = made(tmp_path, projection="rademacher", **settings).features(TARGET, "column")
    np.testing.assert_array_equal(here, there)
    assert here.shape == (12, 1024)
    np.testing.assert_allclose((here**2).sum(1), 1, rtol=1e-5)
    again = tmp_path / "again"
    again.mkdir()
    f.fit_state(pool.take(np.arange(9, -1, -1)), again)
    for name in files:
        assert (again / name).read_bytes() == (tmp_path / name).read_bytes()


def test_a_damaged_state_is_refused(state: Path, model: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="load_state"):
        less().features(POOL, "row")
    with pytest.raises(IntegrityError, match="cannot be read"):
        less().load_state(tmp_path)
    broken = oracle_state(tmp_path / "a", model.key)
    (broken / "checkpoint-2.safetensors").unlink()
    with pytest.raises(IntegrityError, match="lacks checkpoint-2.safetensors"):
        less().load_state(broken)
    (broken / "state.json").write_text('{"format": "other"}')
    with pytest.raises(IntegrityError, match="format"):
        less().load_state(broken)
    with pytest.raises(RunError, match="rank 4 and alpha 8, the adapters have 2 and 8"):
        made(state, rank=2).features(POOL, "row")
    with pytest.raises(
        IntegrityError, match="checkpoint 1: weight has .*k_proj.* which the model's adapters lack"
    ):
        made(state, targets=["q_proj"]).features(POOL, "row")


def test_rows_at_the_edges(state: Path) -> None:
    """Empty prompt, empty response (its eos alone), braces and markers: each as the reference has it."""
    f = made(state)
    pool = rows_of(("", "hm"), ("Say {prompt} \nResponse: ", ""), ("", ""))
    found = values(f, pool, TARGET)
    s = sequences_of(f.adapted.model, pool)
    assert [len(r) for r in s.responses][1:] == [1, 1]
    wanted = torch.zeros(3, 12, dtype=torch.float64)
    for k, weight in zip((1, 2), f._state.weights, strict=True):  # type: ignore[union-attr]
        checkpoint = oracle_checkpoint(k, f.adapted.model.key)
        f.adapted.set_weights(checkpoint.weight)
        t = sequences_of(f.adapted.model, TARGET)
        left = [
            plain_gradient(f.adapted, list(p), list(r))[0]
            for p, r in zip(s.prompts, s.responses, strict=True)
        ]
        right = [
            plain_gradient(f.adapted, list(p), list(r))[0]
            for p, r in zip(t.prompts, t.responses, strict=True)
        ]
        m, v = f.adapted.flat(checkpoint.exp_avg).double(), f.adapted.flat(checkpoint.exp_avg_sq).double()
        wanted += weight * cosine(plain_direction(torch.stack(left), m, v), torch.stack(right))
    np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=1e-5)


def test_a_tokenizer_that_adds_bos_and_a_short_context(state: Path, model: LanguageModel) -> None:
    plain_values = values(made(state), POOL.take(np.arange(3)), TARGET)
    f = made(state, model=replace(tiny(), bos_ids=(1,)))
    sequences, cut = f._sequences(POOL.take(np.arange(3)))
    assert all(p[0] == 1 for p in sequences.prompts) and cut == 0
    assert np.abs(values(f, POOL.take(np.arange(3)), TARGET) - plain_values).max() > 1e-3
    short = made(state, model=replace(tiny(), context_length=30))
    lengths = sequences_of(model, POOL).lengths() + 1
    assert 0 < (lengths > 30).sum() < 24
    first = short.features(POOL, "row")
    assert short.counters["truncated_examples"] == (lengths > 30).sum()
    fitting = np.flatnonzero(lengths <= 30)
    np.testing.assert_allclose(
        first[fitting], made(state).features(POOL.take(fitting), "row"), rtol=0, atol=1e-5
    )


def test_a_chat_model_reads_its_own_template(state: Path) -> None:
    chat = replace(tiny(), template="chat", eos_id=7)
    chat.tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    rows = rows_of(("What is 2 + 3?", "5"), ("{prompt}", ""))
    sequences, _ = made(state, model=chat)._sequences(rows)
    texts = chat.tokenize(["user: What is 2 + 3?\nassistant: ", "user: {prompt}\nassistant: ", "5"])
    assert list(sequences.prompts) == texts[:2]
    assert list(sequences.responses) == [[*texts[2], 7], [7]]


def test_bfloat16_weights_stay_near_the_oracle(tmp_path: Path, oracle: dict[str, np.ndarray]) -> None:
    low = load_language_model(LanguageModelConfig(model=TINY, dtype="bfloat16"), "cpu")
    f = made(oracle_state(tmp_path, low.key), model=low)
    found = values(f, POOL, TARGET)
    assert 1e-5 < np.abs(found - oracle["influence"]).max() < 0.03
    assert np.corrcoef(found.ravel(), oracle["influence"].ravel())[0, 1] > 0.99


def test_gradients_without_direction_stop_the_run(state: Path, model: LanguageModel, tmp_path: Path) -> None:
    zero = oracle_state(tmp_path / "zero", model.key)
    checkpoint = oracle_checkpoint(2, model.key)
    # With A and B zero, no adapter weight has a gradient.
    still = {name: torch.zeros_like(w) for name, w in checkpoint.weight.items()}
    replace(checkpoint, weight=still).save(zero / "checkpoint-2.safetensors")
    with pytest.raises(
        RunError, match="of 12 of 12 target rows have no direction at checkpoint 2.*length is zero"
    ):
        made(zero).features(TARGET, "column")
    huge = {name: torch.full_like(w, 1e30) for name, w in checkpoint.weight.items()}
    replace(checkpoint, weight=huge).save(zero / "checkpoint-2.safetensors")
    start = POOL.prompts[0][:20]
    with pytest.raises(RunError, match=f'24 of 24 pool rows .*is not a number, and its text starts "{start}'):
        made(zero).features(POOL, "row")


def config(model: dict[str, Any] | None = None, seed: int = 0, **changes: Any) -> Any:
    return parse_config(
        {
            "pool": {"source": "x"},
            "seed": seed,
            "language_model": {"model": TINY, **(model or {})},
            "influence": {"function": "less", "less": changes},
        }
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"warm_up_fraction": 0.1}, {"warm_up_rows": 9}, {"epochs": 3}, {"batch_size": 8}, {"warmup": 0.1},
        {"learning_rate": 1e-4}, {"weight_decay": 0.1}, {"rank": 8}, {"alpha": 9}, {"dropout": 0.2},
        {"targets": ["q_proj"]}, {"template": "Q {prompt} A "}, {"projection": "count-sketch"},
        {"projection": "none"}, {"projection_dim": 99}, {"seed": 1}, {"model": {"dtype": "bfloat16"}},
    ],
)  # fmt: skip
def test_what_decides_values_is_in_the_key(changes: dict[str, Any]) -> None:
    assert function_key(config(**changes)) != function_key(config())


def test_nothing_else_is_in_the_key() -> None:
    base = function_key(config())
    assert base == function_key(config({"batch_tokens": 64, "device": "cpu"}))
    assert base == function_key(config(targets=[*reversed(QKVO), "q_proj"]))
    assert function_key(config(projection="none")) == function_key(
        config(projection="none", projection_dim=9)
    )
    made_here = create(config(), "cpu")
    assert isinstance(made_here, Less) and made_here.key() == base


def test_planning_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from nncift_core.config import parse_config\n"
        "from nncift_core.influence.registry import function_key\n"
        f"c = parse_config({{'pool': {{'source': 'x'}}, 'influence': {{'function': 'less'}},\n"
        f"                  'language_model': {{'model': {TINY!r}}}}})\n"
        "print(function_key(c), 'torch' in sys.modules, 'transformers' in sys.modules)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    key, *loaded = done.stdout.split()
    assert loaded == ["False", "False"] and key == function_key(config())


def test_rows_of_the_warm_up_and_costs() -> None:
    rows = implementation(config()).state_rows  # type: ignore[attr-defined]
    assert [rows(config(), n) for n in (10, 64, 1000, 2000)] == [10, 64, 64, 100]
    assert rows(config(warm_up_fraction=1.0), 300) == 300
    assert Less.cost.per_pair == 0 and Less.cost.per_row == 12 == Less.cost.per_column
    assert create(config(epochs=2), "cpu").cost.per_row == 6
    assert Less.needs == {"state", "features"} and LessConfig().epochs == 4
