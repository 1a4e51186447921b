"""The registry: names, keys without models, lazy loading."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nncift_core import influence
from nncift_core.config import InfluenceConfig, parse_config
from nncift_core.errors import UserError
from nncift_core.influence import delift, registry

TINY = Path(__file__).parents[1] / "data" / "oracles" / "tiny-lm"


def config(function: str, model: str = str(TINY), base_dir: Path | None = None, **section: object):  # type: ignore[no-untyped-def]
    return parse_config(
        {
            "pool": {"source": "x"},
            "influence": {"function": function},
            "language_model": {"model": model, **section},
        },
        base_dir=base_dir,
    )


def test_every_name_in_the_config_is_registered() -> None:
    annotation = InfluenceConfig.model_fields["function"].annotation
    assert set(registry.FUNCTIONS) == set(annotation.__args__)  # type: ignore[union-attr]
    for name, function in registry.FUNCTIONS.items():
        assert function.name == name  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["delift", "delift-se"])
def test_function_key_is_the_key_of_the_created_function(name: str) -> None:
    made = registry.create(config(name), "cpu")
    assert made.name == name and made.key() == registry.function_key(config(name))
    assert made.kind == "pairwise"


def test_the_two_functions_say_what_they_cost_and_need() -> None:
    one, two = registry.create(config("delift"), "cpu"), registry.create(config("delift-se"), "cpu")
    assert (one.cost.per_pair, one.cost.per_column, one.needs) == (1, 1, frozenset())
    assert (two.cost.per_pair, two.needs) == (0, frozenset({"embedding"}))


def test_create_loads_the_model_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[tuple[str, str]] = []
    monkeypatch.setattr(delift, "load_language_model", lambda c, d, b: loaded.append((c.model, d)))
    made = registry.create(config("delift"), "cpu")
    made.key()
    assert loaded == []
    assert isinstance(made, delift.Delift)
    _ = made.model
    assert loaded == [(str(TINY), "cpu")]


def test_relative_model_folders_start_from_the_config(tmp_path: Path) -> None:
    (tmp_path / "lm").symlink_to(TINY)
    assert registry.function_key(config("delift", "./lm", tmp_path)) == registry.function_key(
        config("delift")
    )
    with pytest.raises(UserError, match='field language_model.model: no folder "./lm"'):
        registry.function_key(config("delift", "./lm", tmp_path.parent))


def test_an_absent_device_is_named_before_any_work() -> None:
    with pytest.raises(
        UserError, match='language_model.device: no device "cuda:99".*Use "auto" or one of: .*cpu'
    ):
        registry.create(config("delift", device="cuda:99"), "cpu")


def test_function_key_imports_no_torch() -> None:
    code = (
        "import sys\n"
        "from nncift_core.config import parse_config\n"
        "from nncift_core.influence.registry import function_key\n"
        "for name in ('delift', 'delift-se'):\n"
        "    c = parse_config({'pool': {'source': 'x'}, 'influence': {'function': name},\n"
        f"                      'language_model': {{'model': {str(TINY)!r}}}}})\n"
        "    print(function_key(c), 'torch' in sys.modules, 'transformers' in sys.modules)\n"
    )
    root = Path(influence.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    lines = done.stdout.splitlines()
    assert [line.split()[1:] for line in lines] == [["False", "False"]] * 2
    assert lines[0].split()[0] == registry.function_key(config("delift"))
