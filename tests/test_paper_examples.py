"""The configs of the paper's tables: accepted as they stand; the data they read has the shape they say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nncift_core.config import load_config
from nncift_core.pipeline.compare import check_compare

FOLDER = Path(__file__).parents[1] / "examples" / "paper"
CONFIGS = sorted(FOLDER.glob("*.toml"))


@pytest.fixture(scope="module")
def prepare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare", FOLDER / "prepare.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_is_one_config_for_each_model_and_data_set() -> None:
    assert len(CONFIGS) == 3 * 3


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_config_of_the_paper_is_accepted_and_has_its_settings(path: Path) -> None:
    config = load_config(path)
    names = [m.name for m in check_compare(config)]
    assert {
        f"{f}, {v}" for f in ("selectit", "less", "delift-se", "delift") for v in ("exact", "estimated")
    } <= set(names)
    assert "delift by distilgpt2, estimated" in names and "delift-se by distilgpt2, exact" not in names
    assert config.influence.label_fraction == 0.05 and config.selection.share == 0.3
    assert config.estimator.architecture == "mlp-paper" and config.encoder.model == "BAAI/bge-large-en-v1.5"
    assert config.finetune is not None and config.finetune.method == "qlora"
    assert config.evaluation.modes == ["finetune", "icl"]


def test_three_parts_are_cut_without_a_row_in_two(
    prepare: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "SIZES", {"pool": 6, "target": 3, "test": 2})
    rows = [{"instruction": f"i{k}", "input": "" if k % 2 else "x", "output": f"o{k}"} for k in range(12)]
    found = dict(prepare.parts("alpaca", lambda split: rows))
    assert {name: len(part) for name, part in found.items()} == {"pool": 6, "target": 3, "test": 2}
    answers = [row["response"] for part in found.values() for row in part]
    assert len(set(answers)) == 11
    assert all(
        "\nx" in row["prompt"] for part in found.values() for row in part if int(row["response"][1:]) % 2 == 0
    )


def test_questions_carry_lettered_options_and_the_right_letter(prepare: ModuleType) -> None:
    from nncift_core.evaluation import HeldOut, check_choices

    raw: list[dict[str, Any]] = [
        {"question": "2 + 2?", "choices": ["1", "2", "3", "4"], "answer": 3, "subject": "sums"}
    ]
    found = dict(prepare.parts("mmlu", lambda split: raw))
    (row,) = found["test"]
    assert row == {"prompt": "2 + 2?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:", "response": "D", "task": "sums"}
    check_choices(HeldOut((row["prompt"],), (row["response"],)))
