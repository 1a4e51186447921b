"""Keys of trainings and runs: other where a value would be, equal where nobody reads the difference."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nncift_core.config_prune import PruneConfig, parse_prune_config
from nncift_core.pipeline.problem import Keys
from nncift_core.pruning import problem as problems
from nncift_core.pruning.job import prune_run_key
from nncift_core.pruning.keys import array_digest
from nncift_core.pruning.learning import learn_key
from nncift_core.pruning.problem import GIVEN, LabelSet, PruneProblem
from nncift_core.pruning.trainings import ScoreCell, point_key, score_key
from nncift_core.store.references import DatasetRef
from nncift_core.store.workspace import Workspace

N = 30
ROWS = np.arange(0, N, 2)
NOISY = LabelSet("uniform", 0.2, 1)
KEYS = Keys("encoder", "prune")


class Held(PruneProblem):
    """A problem of N rows of three classes that lies in memory."""

    def __init__(self, folder: Path, given: PruneConfig, ids: np.ndarray, labels: np.ndarray) -> None:
        ref = DatasetRef(role="test", dataset="t", version="v", path="t", rows=1, new_rows=1)
        super().__init__(Workspace(folder), given, KEYS, (ref,))
        self.__dict__.update(classes=("a", "b", "c"), labels=labels)
        self._rows: Any = SimpleNamespace(content_ids=ids)

    @property
    def train(self) -> Any:
        return self._rows


def config(**sections: Any) -> PruneConfig:
    return parse_prune_config({"data": {"source": "d.jsonl", "test": "t.jsonl"}, **sections})


def made(folder: Path, **sections: Any) -> Held:
    return Held(folder, config(**sections), np.arange(N) * 2**40, np.arange(N) % 3)


def keys(problem: PruneProblem) -> dict[str, str]:
    """Every kind of key of a job's trainings, and of its run."""
    return {
        "score": score_key(problem, ScoreCell(GIVEN, 0, gradients=True)),
        "dynamics": score_key(problem, ScoreCell(GIVEN, 1, gradients=False)),
        "point": point_key(problem, GIVEN, ROWS, 0),
        "whole": point_key(problem, GIVEN, np.arange(N), 0),
        "noisy": point_key(problem, NOISY, ROWS, 0),
        "run": prune_run_key(problem.config, {"train": "v"}, KEYS),
    }


def changed(folder: Path, one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """The kinds of keys that differ between two configs."""
    a, b = keys(made(folder, **one)), keys(made(folder, **other))
    return {kind for kind in a if a[kind] != b[kind]}


TRAINED = {"score", "dynamics", "point", "whole", "noisy", "run"}


def test_keys_differ_from_one_another_and_do_not_change_by_themselves(tmp_path):
    found = keys(made(tmp_path))
    assert len(set(found.values())) == len(found)
    assert found == keys(made(tmp_path))


def test_the_order_of_score_names_is_in_no_key(tmp_path):
    names = ["tracin", "el2n", "grand", "vog"]
    assert changed(tmp_path, {"scores": {"names": names}}, {"scores": {"names": names[::-1]}}) == set()
    given = config(scores={"names": names})
    keys(Held(tmp_path, given, np.arange(N), np.arange(N) % 3))
    assert given.scores.names == names, "a key changes no config"


def test_scores_that_are_asked_for_are_in_the_keys_of_what_is_kept_for_them(tmp_path):
    names = ["el2n", "vog"]
    assert changed(tmp_path, {"scores": {"names": names}}, {"scores": {"names": [*names, "aum"]}}) == {"run"}
    more = {"scores": {"names": [*names, "grand"]}}
    assert changed(tmp_path, {"scores": {"names": names}}, more) == {"score", "run"}
    more = {"scores": {"names": [*names, "pvi"]}}
    assert changed(tmp_path, {"scores": {"names": names}}, more) == {"score", "dynamics", "run"}


@pytest.mark.parametrize("field", [{"encoder_rate": 3e-5}, {"max_tokens": 64}])
def test_settings_of_the_encoders_training_are_in_no_key_where_it_is_frozen(tmp_path, field):
    assert changed(tmp_path, {}, {"training": field}) == set()
    full = {"mode": "full"}
    assert changed(tmp_path, {"training": full}, {"training": {**full, **field}}) == TRAINED


@pytest.mark.parametrize("mode", ["frozen", "full"])
@pytest.mark.parametrize("field", [{"hidden": 7}, {"dropout": 0.5}])
def test_a_linear_head_has_neither_hidden_layer_nor_dropout(tmp_path, mode, field):
    plain = {"mode": mode, "head": "linear"}
    scores = {"names": ["el2n", "tracin"]}
    one = {"training": plain, "scores": scores}
    assert changed(tmp_path, one, {"training": {**plain, **field}, "scores": scores}) == set()
    paper = {"mode": mode, "head": "paper"}
    assert changed(tmp_path, {"training": paper}, {"training": {**paper, **field}}) == TRAINED


@pytest.mark.parametrize("mode", ["frozen", "full"])
@pytest.mark.parametrize(
    "field", [{"warmup": 0.1}, {"epochs": 9}, {"batch_size": 7}, {"learning_rate": 0.5}, {"head": "linear"}]
)
def test_what_every_training_reads_is_in_every_key(tmp_path, mode, field):
    given = {"training": {"mode": mode}, "scores": {"names": ["el2n", "tracin"]}}
    assert changed(tmp_path, given, {**given, "training": {"mode": mode, **field}}) == TRAINED


def test_how_a_training_is_looked_at_is_in_the_keys_of_scores_alone(tmp_path):
    assert changed(tmp_path, {}, {"training": {"log_every": 7}}) == {"score", "dynamics", "run"}
    assert changed(tmp_path, {}, {"training": {"checkpoints": 7}}) == {"score", "run"}


def test_a_prefix_of_embedded_texts_is_in_no_key_of_an_encoder_that_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(problems, "encoder_key", lambda config, _: f"encoder{config.pool_prefix}")
    full = {"training": {"mode": "full"}}
    assert changed(tmp_path, full, {**full, "encoder": {"pool_prefix": "query: "}}) == set()


def test_keys_tell_rows_labels_and_their_order_apart(tmp_path):
    ids, labels = np.arange(N) * 2**40, np.arange(N) % 3
    other, wrong = ids.copy(), labels.copy()
    other[4] += 1
    wrong[4] = (wrong[4] + 1) % 3
    pairs = [(ids, labels), (other, labels), (ids, wrong), (ids[::-1].copy(), labels)]
    found = [keys(Held(tmp_path, config(), *pair)) for pair in pairs]
    for kind in ("score", "point", "whole", "noisy"):
        assert len({f[kind] for f in found}) == len(pairs), kind
    problem = Held(tmp_path, config(), ids, labels)
    values = np.arange(N) / 7
    assert learn_key(problem, "el2n", values) != learn_key(problem, "el2n", values + 1e-12)
    assert learn_key(problem, "el2n", values) != learn_key(
        Held(tmp_path, config(), ids, wrong), "el2n", values
    )


def test_a_key_of_all_rows_hashes_them_once(tmp_path, monkeypatch):
    problem, hashed = made(tmp_path), []
    monkeypatch.setattr(problems, "array_digest", lambda a: hashed.append(len(a)) or array_digest(a))
    for seed in range(5):
        score_key(problem, ScoreCell(NOISY, seed, gradients=True))
        score_key(problem, ScoreCell(GIVEN, seed, gradients=False))
        point_key(problem, GIVEN, np.arange(N), seed)
    assert hashed == [N] * 4
    assert problem.labels_of(NOISY) is problem.labels_of(NOISY)


def test_digests_of_arrays_tell_type_shape_and_values_and_no_byte_order():
    a = np.arange(6)
    alike = [a, a.astype(">i8"), np.r_[a, a][:6], np.arange(12)[::2] // 2]
    assert len({array_digest(x) for x in alike}) == 1
    others = [a, a.astype(np.int32), a.astype(float), a.reshape(2, 3), a[:5], a + 1, a[:0]]
    assert len({array_digest(x) for x in others}) == len(others)
