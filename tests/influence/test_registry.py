"""The catalogue and the registry: names, kinds, keys without models, lazy loading."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nncift_core import influence
from nncift_core.config import Config, parse_config
from nncift_core.errors import UserError
from nncift_core.functions import CATALOGUE
from nncift_core.influence import delift, registry
from nncift_core.influence.contract import CostModel, Pairwise, Pointwise

TINY = Path(__file__).parents[1] / "data" / "oracles" / "tiny-lm"
# Which of them read a language model, and so may have no key without one.
WITH_MODEL = {"delift", "less", "selectit"}


def config(
    function: str, model: str = str(TINY), base_dir: Path | None = None, seed: int = 0, **section: Any
) -> Config:
    return parse_config(
        {
            "seed": seed,
            "pool": {"source": "x"},
            "influence": {"function": function},
            "language_model": {"model": model, **section},
        },
        base_dir=base_dir,
    )


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_entry_names_a_class_that_agrees_with_it(name: str) -> None:
    entry, found = CATALOGUE[name], registry.implementation(config(name))
    assert isinstance(found, type) and found.name == name  # type: ignore[attr-defined]
    base = {"pairwise": Pairwise, "pointwise": Pointwise}[entry.kind]
    assert issubclass(found, base) and found.kind == entry.kind  # type: ignore[attr-defined]
    assert isinstance(found.cost, CostModel) and isinstance(found.version, int)  # type: ignore[attr-defined]
    assert found.needs <= {"embedding", "state", "features"}
    # A coverage rule needs a similarity of pairs.
    assert entry.rule == "top-k" or entry.kind == "pairwise"


@pytest.mark.parametrize("name", CATALOGUE)
def test_what_an_entry_needs_it_fills(name: str) -> None:
    found: Any = registry.implementation(config(name))
    asked = {"pairwise": {"tile", "pairs"}, "pointwise": {"values"}}[CATALOGUE[name].kind]
    asked |= {"fit_state", "load_state"} if "state" in found.needs else set()
    asked |= {"features"} if "features" in found.needs else set()
    own = {method for c in found.__mro__ if c.__module__ == found.__module__ for method in vars(c)}
    assert asked <= own
    for method in asked:
        assert list(inspect.signature(getattr(found, method)).parameters)[-1] in ("progress", "folder")
    if "state" in found.needs:
        assert found.state_rows(config(name), 1) == 1
        assert all(1 <= found.state_rows(config(name), n) <= n for n in (2, 65, 10_000))


@pytest.mark.parametrize("name", CATALOGUE)
def test_function_key_is_the_key_of_the_created_function(name: str) -> None:
    made = registry.create(config(name), "cpu")
    assert made.name == name and made.kind == CATALOGUE[name].kind
    assert made.key() == registry.function_key(config(name)) and len(made.key()) == 32
    assert made.key() == registry.function_key(config(name, device="cpu", batch_tokens=64))
    assert not made.counters


def test_keys_of_different_functions_differ() -> None:
    assert len({registry.function_key(config(name)) for name in CATALOGUE}) == len(CATALOGUE)


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_key_follows_the_model_where_there_is_one(name: str) -> None:
    same = registry.function_key(config(name)) == registry.function_key(config(name, "builtin"))
    assert same == (name not in WITH_MODEL)


def test_what_functions_cost_and_need() -> None:
    made = {name: registry.create(config(name), "cpu") for name in CATALOGUE}
    cost = {name: (f.cost.per_pair, f.cost.per_row, f.cost.per_column) for name, f in made.items()}
    assert cost["delift"][0] > 0
    assert all(per_pair == 0 for name, (per_pair, _, _) in cost.items() if name != "delift")
    assert cost["selectit"] == (0, 5, 0) and cost["less"][1] > 0 and cost["less"][2] > 0
    assert {cost[name] for name in ("delift-se", "bm25", "length")} == {(0, 0, 0)}
    needs = {name: set(f.needs) for name, f in made.items()}
    assert needs == {
        "delift": set(),
        "delift-se": {"embedding"},
        "less": {"state", "features"},
        "selectit": set(),
        "bm25": {"state"},
        "length": set(),
    }


def test_create_loads_the_model_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[tuple[str, ...]] = []
    monkeypatch.setattr(delift, "load_language_model", lambda c, d, b, over: loaded.append((c.model, *over)))
    made = registry.create(config("delift"), "cpu")
    made.key()
    assert loaded == []
    assert isinstance(made, delift.Delift)
    _ = made.model
    assert loaded == [(str(TINY), "cpu")]
    spread = registry.create(config("delift"), "cpu", "mps")
    assert isinstance(spread, delift.Delift) and spread.model is None
    assert loaded[1:] == [(str(TINY), "cpu", "mps")]


def test_a_function_without_a_teacher_gets_one_device_whatever_a_slot_has() -> None:
    assert registry.create(config("bm25"), "cpu", "cpu").name == "bm25"


@pytest.mark.parametrize("name", sorted(WITH_MODEL))
def test_relative_model_folders_start_from_the_config(tmp_path: Path, name: str) -> None:
    (tmp_path / "lm").symlink_to(TINY)
    assert registry.function_key(config(name, "./lm", tmp_path)) == registry.function_key(config(name))
    with pytest.raises(UserError, match='field language_model.model: no folder "./lm"'):
        registry.function_key(config(name, "./lm", tmp_path.parent))


@pytest.mark.parametrize("name", sorted(WITH_MODEL))
def test_an_absent_device_is_named_before_any_work(name: str) -> None:
    with pytest.raises(
        UserError, match='language_model.device: no device "cuda:99".*Use "auto" or one of: .*cpu'
    ):
        registry.create(config(name, device="cuda:99"), "cpu")


def test_function_keys_import_no_torch() -> None:
    code = (
        "import sys\n"
        "from nncift_core.config import parse_config\n"
        "from nncift_core.functions import CATALOGUE\n"
        "from nncift_core.influence.registry import function_key\n"
        "for name in CATALOGUE:\n"
        "    c = parse_config({'pool': {'source': 'x'}, 'influence': {'function': name},\n"
        f"                      'language_model': {{'model': {str(TINY)!r}}}}})\n"
        "    print(name, function_key(c), 'torch' in sys.modules, 'transformers' in sys.modules)\n"
    )
    root = Path(influence.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    expected = [f"{name} {registry.function_key(config(name))} False False" for name in CATALOGUE]
    assert done.stdout.splitlines() == expected
