"""Fine-tuning of an encoder: what it learns, what it keeps, what it leaves alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from classification.small_encoder import rows, save_bert, save_tokenizer
from safetensors.torch import load_file

from nncift_core.classification.contract import Run, dynamics_of
from nncift_core.classification.full import train_encoder
from nncift_core.classification.heads import head_from, make_head
from nncift_core.classification.schedule import rate_factor
from nncift_core.classification.texts import load_text_encoder, tokenise
from nncift_core.config_prune import TrainingConfig
from nncift_core.encoders import builtin_folder
from nncift_core.errors import UserError

ORACLES = Path(__file__).parents[1] / "data" / "oracles"
SETTINGS = TrainingConfig(
    mode="full", hidden=12, epochs=3, batch_size=10, learning_rate=5e-3, encoder_rate=2e-3, log_every=2
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("bert"))


def train(folder: Path, n: int = 24, settings: TrainingConfig = SETTINGS, **changes: Any) -> Run:
    texts, labels = rows(n)
    given: dict[str, Any] = {"seed": 1, "evaluate": {"test": (texts, None)}} | changes
    return train_encoder(folder, texts, None, labels, 3, settings, **given)


def same(a: Run, b: Run) -> bool:
    return np.array_equal(a.predictions["test"].probabilities, b.predictions["test"].probabilities)


def test_it_learns_what_the_rows_say(folder):
    texts, labels = rows(120, longest=6)
    others, truth = rows(60, seed=9, longest=6)
    longer = SETTINGS.model_copy(update={"epochs": 15, "dropout": 0.0})
    run = train_encoder(folder, texts, None, labels, 3, longer, seed=0, evaluate={"test": (others, None)})
    assert (run.predictions["test"].predicted == truth).mean() > 0.7
    assert run.dynamics is None and run.checkpoints == ()
    assert run.facts["training_loss"] < 0.8


def test_equal_seeds_give_equal_runs_and_others_do_not(folder, tmp_path):
    first = train(folder, log=True)
    second = train(folder, log=True, checkpoints=2, weights_dir=tmp_path)
    assert same(first, second)
    assert np.array_equal(first.dynamics.margin, second.dynamics.margin)
    assert not same(first, train(folder, seed=2))


def test_random_state_and_modes_of_torch_are_neither_read_nor_changed(folder):
    torch.manual_seed(1)
    first = train(folder)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    with torch.inference_mode():
        second = train(folder)
        assert torch.is_inference_mode_enabled()
    assert torch.equal(before, torch.random.get_rng_state())
    assert same(first, second)


def test_the_state_that_accelerate_keeps_is_as_before(folder):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        accelerator = Accelerator(cpu=True, mixed_precision="bf16")
        train(folder)
        assert accelerator.mixed_precision == "bf16"
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def test_steps_are_those_of_a_plain_loop_when_nothing_is_dropped(tmp_path):
    folder = save_bert(tmp_path / "m", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    settings = SETTINGS.model_copy(update={"dropout": 0.0, "batch_size": 24, "warmup": 0.4})
    run = train(folder, settings=settings)
    texts, labels = rows(24)
    encoder = load_text_encoder(folder, "cpu")
    tokens = tokenise(encoder, texts, None, 128)
    head = make_head("paper", 16, 3, 12, 0.0, 1)
    adam = torch.optim.Adam(
        [
            {"params": [p for n, p in encoder.model.named_parameters() if "pooler" not in n], "lr": 2e-3},
            {"params": list(head.parameters()), "lr": 5e-3},
        ]
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(adam, lambda k: rate_factor(k, 3, 0.4) if k < 3 else 0)

    def logits() -> torch.Tensor:
        """One row at a time, so without padding."""
        each = [encoder.pooled(tokens.batch(np.array([k]), "cpu")) for k in range(24)]
        return head(torch.cat(each))

    for _ in range(3):
        adam.zero_grad()
        torch.nn.functional.cross_entropy(logits(), torch.from_numpy(labels)).backward()
        adam.step()
        scheduler.step()
    expected = torch.softmax(logits(), dim=1).detach().numpy()
    assert np.abs(run.predictions["test"].probabilities - expected).max() < 1e-4


def test_checkpoints_hold_encoder_head_and_rates_and_the_last_one_predicts(folder, tmp_path):
    run = train(folder, log=True, checkpoints=3, weights_dir=tmp_path)
    assert [c.step for c in run.checkpoints] == [3, 6, 9]
    assert sorted(p.name for p in tmp_path.iterdir()) == [c.weights for c in run.checkpoints]
    for c in run.checkpoints:
        factor = rate_factor(c.step - 1, 9, 0.0)
        assert c.learning_rate == pytest.approx(5e-3 * factor)
        assert c.encoder_rate == pytest.approx(2e-3 * factor)
        assert c.epoch == c.step / 3
    texts, labels = rows(24)
    encoder = load_text_encoder(folder, "cpu")
    encoder.model.load_state_dict(load_file(tmp_path / run.checkpoints[-1].weights))
    tokens = tokenise(encoder, texts, None, 128)
    with torch.no_grad():
        pooled = encoder.pooled(tokens.batch(np.arange(24), "cpu"))
        logits = head_from(run.checkpoints[-1].layers)(pooled).numpy()
    last = dynamics_of(logits[None], labels, np.array([9]), np.array([3.0]), np.array([True]))
    assert np.abs(last.margin - run.dynamics.margin[-1]).max() < 1e-4
    assert np.array_equal(last.predicted[0], run.predictions["test"].predicted)


def test_dynamics_are_looked_at_when_the_schedule_says(folder):
    told: list[int] = []
    run = train(folder, log=True, progress=told.append)
    assert run.dynamics.steps.tolist() == [2, 3, 4, 6, 9]
    assert run.dynamics.epoch_end.tolist() == [False, True, False, True, True]
    assert run.dynamics.epochs.tolist() == [2 / 3, 1, 4 / 3, 2, 3]
    assert run.dynamics.rows == 24
    assert told == [10, 10, 4] * 3


def test_pairs_are_read_as_pairs(folder):
    texts, labels = rows(24)
    seconds = texts[1:] + texts[:1]
    run = train_encoder(
        folder,
        texts,
        seconds,
        labels,
        3,
        SETTINGS,
        seed=1,
        evaluate={"test": (texts, seconds), "turned": (seconds, texts)},
    )
    assert not same(run, train(folder))
    turned = run.predictions["turned"].probabilities
    assert np.abs(run.predictions["test"].probabilities - turned).max() > 1e-3


def test_a_null_model_trains_on_empty_texts_and_knows_the_classes_shares(folder):
    labels = np.array([0] * 18 + [1] * 6)
    settings = SETTINGS.model_copy(update={"epochs": 40, "head": "linear", "dropout": 0.0})
    run = train_encoder(folder, [""] * 24, None, labels, 2, settings, seed=0, evaluate={"null": ([""], None)})
    assert run.predictions["null"].probabilities[0] == pytest.approx([0.75, 0.25], abs=0.1)


def test_an_empty_text_has_a_token_even_where_the_tokenizer_adds_none(tmp_path):
    folder = save_bert(tmp_path / "m")
    save_tokenizer(folder, specials=False)
    encoder = load_text_encoder(folder, "cpu")
    tokens = tokenise(encoder, ["", "w1 w2"], None, 16)
    assert tokens.lengths().tolist() == [1, 2]
    with torch.no_grad():
        assert bool(torch.isfinite(encoder.pooled(tokens.batch(np.array([0, 1]), "cpu"))).all())


def test_long_texts_are_cut_and_counted(folder):
    texts, labels = ["w1 " * 20, "w2", "w1 " * 6, "w3"], np.array([0, 1, 0, 1])
    settings = SETTINGS.model_copy(update={"max_tokens": 8, "epochs": 1})
    run = train_encoder(folder, texts, None, labels, 2, settings, seed=0)
    assert run.facts["truncated_texts"] == 1
    encoder = load_text_encoder(folder, "cpu")
    assert tokenise(encoder, texts, None, 8).lengths().tolist() == [8, 3, 8, 3]
    # The model has 32 positions, whatever is asked for.
    assert tokenise(encoder, ["w1 " * 50], ["w2"], 128).lengths().tolist() == [32]
    cut = tokenise(encoder, ["w1 " * 50], ["w2"], 8)
    assert cut.ids[0][-2:] == tokenise(encoder, ["w2"], None, 8).ids[0][1:]
    assert cut.truncated == 1


def test_padding_changes_no_pooled_vector(folder):
    texts, _ = rows(12)
    encoder = load_text_encoder(folder, "cpu")
    tokens = tokenise(encoder, texts, None, 16)
    with torch.no_grad():
        together = encoder.pooled(tokens.batch(np.arange(12), "cpu"))
        alone = torch.cat([encoder.pooled(tokens.batch(np.array([k]), "cpu")) for k in range(12)])
    assert float((together - alone).abs().max()) < 1e-5


def test_a_loss_that_runs_away_names_the_learning_rate(folder):
    wild = SETTINGS.model_copy(update={"encoder_rate": 1e30, "learning_rate": 1e30})
    with pytest.raises(UserError, match="not a finite number") as e:
        train(folder, settings=wild)
    assert e.value.field == "training.encoder_rate"


def test_weights_that_lack_a_part_are_refused(tmp_path):
    from safetensors.torch import save_file

    folder = save_bert(tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lack encoder\.layer\.1\.output\.dense\.weight"):
        load_text_encoder(folder, "cpu")


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded as an encoder") as e:
        load_text_encoder(tmp_path, "cpu")
    assert e.value.field == "encoder.model"


def test_rows_that_do_not_fit_together_are_a_mistake_of_the_caller(folder):
    texts, labels = rows(6)
    with pytest.raises(ValueError, match="6 texts and 5 labels"):
        train_encoder(folder, texts, None, labels[:5], 3, SETTINGS, seed=0)
    with pytest.raises(ValueError, match="6 texts and 2 second texts"):
        train_encoder(folder, texts, ["", ""], labels, 3, SETTINGS, seed=0)
    with pytest.raises(ValueError, match="without a folder"):
        train_encoder(folder, texts, None, labels, 3, SETTINGS, seed=0, checkpoints=2)


def test_the_builtin_encoder_is_pooled_as_its_vectors_were():
    lines = (ORACLES / "examples.jsonl").read_text(encoding="utf-8").splitlines()[:24]
    texts = [f"{r['prompt']}\n{r['response']}" for r in map(json.loads, lines)]
    short = np.argsort([len(t) for t in texts])[:4]
    encoder = load_text_encoder(builtin_folder(), "cpu")
    tokens = tokenise(encoder, texts, None, 256)
    with torch.no_grad():
        pooled = encoder.pooled(tokens.batch(short, "cpu"))
    ours = torch.nn.functional.normalize(pooled).numpy()
    expected = np.load(ORACLES / "embedding.npz", allow_pickle=False)["pool_embedding"][short]
    assert np.abs(ours - expected).max() < 1e-6
