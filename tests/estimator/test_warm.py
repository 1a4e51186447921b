"""Warm starts: as good as a cold fit in fewer steps, honest about what cannot be a start."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from estimator_worlds import World, learnable, pointwise, r_squared

from nncift_core.estimator import load, make, save
from nncift_core.estimator.contract import EMBEDDING
from nncift_core.estimator.mlp import Mlp, _said_again
from nncift_core.estimator.registry import NAMES, class_of
from nncift_core.estimator.sides import Labels
from nncift_core.estimator.two_tower import _predict
from nncift_core.estimator.two_tower import _said_again as towers_said_again
from nncift_core.estimator.warm import LEAST_NEW_ROWS, Moved, Start, WarmStarting

# Half a minute of fits.
pytestmark = pytest.mark.heavy
WORLD = learnable(120, 30, noise=0.3)
WARM = ("mlp", "two-tower", "kernel", "factor")
# The four share two ways of holding a start: these are the cheap ones of either.
CHEAP = ("factor", "kernel")
OLD, ALL, COLUMNS = 40, 70, 12


def fitted(name: str, rows: int, previous=None, world: World = WORLD, seed: int = 0):
    """The estimator on a block of the first `rows`, from `previous` if given."""
    made = make(name)
    if previous is not None:
        made.warm(previous)
    return made.fit(world.features, *world.block(rows, COLUMNS), seed=seed)


@pytest.fixture(scope="module")
def fits():
    """By name: the fit on few rows, the cold one on all, the warm one on all."""
    found = {}
    for name in WARM:
        old = fitted(name, OLD)
        found[name] = old, fitted(name, ALL), fitted(name, ALL, old)
    return found


@pytest.mark.parametrize("name", WARM)
def test_unseen_pairs_are_predicted_as_well_as_by_a_cold_fit(fits, name):
    unseen = (slice(ALL, None), slice(COLUMNS, None))
    _, cold, warm = fits[name]
    truth = WORLD.Z[unseen]
    good = [r_squared(truth, model.predict(WORLD.features)[unseen]) for model in (cold, warm)]
    assert good[0] > 0.6 and good[1] > good[0] - 0.05
    assert warm.describe()["warm_start"] == "yes" and "warm_start" not in cold.describe()


@pytest.mark.parametrize(("name", "steps"), [("mlp", "best_epoch"), ("two-tower", "steps")])
def test_training_further_takes_fewer_steps(fits, name, steps):
    _, cold, warm = fits[name]
    assert warm.describe()[steps] < cold.describe()[steps] / 2


def test_the_search_for_hyperparameters_ends_sooner_at_the_same_place(monkeypatch):
    from nncift_core.estimator import kernel_labels

    search, asked = kernel_labels.search, []

    def counted(objective, *args):
        asked.append(0)

        def once_more(hyper):
            asked[-1] += 1
            return objective(hyper)

        return search(once_more, *args)

    monkeypatch.setattr(kernel_labels, "search", counted)
    old = fitted("kernel", OLD)
    cold, warm = fitted("kernel", ALL), fitted("kernel", ALL, old)
    assert asked[2] < asked[1]
    assert warm.noise == pytest.approx(cold.noise, rel=0.1)


@pytest.mark.parametrize("name", WARM)
def test_equal_starts_give_equal_fits_and_a_saved_start_is_one(fits, name, tmp_path):
    old, _, warm = fits[name]
    state = {k: x.copy() for k, x in old.state()[0].items()}
    save(old, tmp_path / "old.safetensors")
    again = fitted(name, ALL, load(tmp_path / "old.safetensors"))
    assert np.array_equal(warm.predict(WORLD.features), again.predict(WORLD.features))
    assert all(np.array_equal(state[k], x) for k, x in old.state()[0].items()), "the start stays as it is"
    save(warm, tmp_path / "warm.safetensors")
    loaded = load(tmp_path / "warm.safetensors")
    assert np.array_equal(loaded.predict(WORLD.features), warm.predict(WORLD.features))
    assert loaded.describe() == warm.describe()


@pytest.mark.parametrize("name", CHEAP)
def test_a_start_serves_one_fit(fits, name):
    old, cold, _ = fits[name]
    model = make(name).warm(old)
    for rows in (OLD + 20, ALL):
        model.fit(WORLD.features, *WORLD.block(rows, COLUMNS), seed=0)
    assert "warm_start" not in model.describe()
    assert np.array_equal(model.predict(WORLD.features), cold.predict(WORLD.features))


@pytest.mark.parametrize("name", CHEAP)
def test_a_start_of_another_kind_is_left_aside_and_told(fits, name):
    other = fits["kernel" if name != "kernel" else "mlp"][0]
    model = fitted(name, ALL, other)
    assert model.describe()["warm_start"].startswith(f"no: the earlier fit is {other.name!r}")
    assert np.array_equal(model.predict(WORLD.features), fits[name][1].predict(WORLD.features))


@pytest.mark.parametrize("name", CHEAP)
def test_a_start_that_read_other_features_is_left_aside(fits, name):
    old = make(name).fit(WORLD.features.only([EMBEDDING]), *WORLD.block(OLD, COLUMNS), seed=0)
    model = fitted(name, ALL, old)
    assert model.describe()["warm_start"].startswith("no: the earlier fit read")
    assert np.array_equal(model.predict(WORLD.features), fits[name][1].predict(WORLD.features))


def test_without_new_rows_nothing_would_say_when_to_stop(fits):
    rows = OLD + LEAST_NEW_ROWS - 1
    model = fitted("mlp", rows, fits["mlp"][0])
    assert model.describe()["warm_start"].startswith(f"no: {LEAST_NEW_ROWS - 1} labelled rows are new")
    assert np.array_equal(model.predict(WORLD.features), fitted("mlp", rows).predict(WORLD.features))
    assert fitted("mlp", rows + 1, fits["mlp"][0]).describe()["warm_start"] == "yes"


def test_another_width_is_no_start(fits):
    model = Mlp(7).warm(fits["mlp"][0]).fit(WORLD.features, *WORLD.block(ALL, COLUMNS), seed=0)
    assert model.describe()["warm_start"] == "no: the earlier fit has 100 hidden units, not 7"


@pytest.mark.parametrize("name", WARM)
def test_a_pointwise_function_starts_too(name):
    world = pointwise(120)
    old = make(name).fit(world.features, *world.block(OLD, 1), seed=0)
    warm = make(name).warm(old).fit(world.features, *world.block(ALL, 1), seed=0)
    assert warm.describe()["warm_start"] == "yes"
    assert r_squared(world.Z[ALL:], warm.predict(world.features)[ALL:]) > 0.8


@pytest.mark.parametrize(("name", "why"), [("factor", "left nothing to learn"), ("kernel", "were all equal")])
def test_labels_that_were_all_equal_are_no_start(name, why):
    i, j, z = WORLD.block(OLD, COLUMNS)
    old = make(name).fit(WORLD.features, i, j, np.zeros(len(z)), seed=0)
    assert fitted(name, ALL, old).describe()["warm_start"] == f"no: the earlier labels {why}"


def test_those_that_can_start_are_the_ones_that_search_or_descend():
    assert {n for n in NAMES if issubclass(class_of(n), WarmStarting)} == set(WARM)


def start_of(old_F, old_G, F, G, weights, ratio):
    moved = [Moved.of(new, old) for new, old in ((F, old_F), (G, old_G))]
    return Start(weights, {}, *moved, ratio, np.ones(len(F), bool))


@pytest.fixture
def turned():
    """Old coordinates of 30 rows and 20 columns, and new ones: turned, stretched, moved, two axes more."""
    rng = np.random.default_rng(3)
    sides = []
    for n, d in ((30, 5), (20, 4)):
        new = rng.normal(size=(n, d + 2))
        sides.append((new @ rng.normal(size=(d + 2, d)) + rng.normal(size=d), new))
    return sides


def test_old_coordinates_come_from_new_ones(turned):
    for old, new in turned:
        moved = Moved.of(new, old)
        assert np.allclose(new @ moved.T + moved.t, old)
        centre = new[:7].mean(axis=0)
        part = moved.of_part(centre)
        assert np.allclose((new - centre) @ part.T + part.t, old)


def test_towers_say_the_same_in_new_coordinates(turned):
    (old_F, F), (old_G, G) = turned
    rng = np.random.default_rng(4)
    shapes = {"U": (5, 8), "V": (4, 8), "u": (5, 1), "v": (4, 1), "b": (1,)}
    weights = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    i, j = (x.ravel() for x in np.indices((30, 20)))
    start = start_of(old_F, old_G, F, G, weights, 0.5)
    z = np.full(600, 0.25)
    labels = Labels(F, G, i, j, z)
    towers = towers_said_again(start, labels)
    found = _predict(towers, *(torch.tensor(x, dtype=t) for x, t in centred(labels)))
    U, V, u, v, b = weights.values()
    expected = 0.5 * ((old_F @ U) @ (old_G @ V).T + old_F @ u + (old_G @ v).T + b) - 0.25
    assert np.allclose(found.detach().numpy().reshape(30, 20), expected, atol=1e-3)


def centred(labels: Labels):
    part = labels.centred_as(labels)
    return [(part.F, torch.float32), (part.G, torch.float32), (part.i, torch.int64), (part.j, torch.int64)]


def test_a_network_says_the_same_in_new_coordinates(turned):
    (old_F, F), (old_G, G) = turned
    world = learnable(40, 30)
    network = _network_of(Mlp(6).fit(world.features, *world.block(30, 20), seed=0), 5, 4)
    warm = _said_again(network, start_of(old_F, old_G, F, G, {}, 2.0))
    A = F @ np.asarray(warm.W1r)[:, : F.shape[1]].T
    B = G @ np.asarray(warm.W1c)[:, : G.shape[1]].T
    hidden = np.maximum(A[:, None] + B[None] + warm.b1, 0)
    old_G = np.pad(old_G, ((0, 0), (0, 1)))
    expected = network.predict(old_F.astype(np.float32), old_G.astype(np.float32))
    assert np.allclose(hidden @ warm.W2[0] + warm.b2, 2.0 * expected, atol=1e-3)


def _network_of(model: Mlp, rows: int, columns: int):
    """Its network cut to so many row coordinates; columns are padded to as many."""
    from nncift_core.estimator.network import InfluenceNetwork

    w = model._weights
    d = int(w["dimension"][0])
    W1 = np.concatenate([w["W1"][:, :rows], w["W1"][:, d : d + rows]], axis=1)
    return InfluenceNetwork.from_weights(W1, w["b1"], w["W2"], w["b2"], dimension=rows, scale=1.5, shift=0.3)
