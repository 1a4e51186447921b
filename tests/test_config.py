"""Config: unknown keys, wrong values and defaults, each with the message a user sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from nncift_core.config import Config, load_config, parse_config, run_key
from nncift_core.errors import UserError

POOL = {"pool": {"source": "pool.jsonl"}}


@pytest.mark.parametrize(
    ("extra", "parts"),
    [
        ({"pool": {"source": "x", "sorce": 1}}, ["pool.sorce", 'Did you mean "source"?']),
        ({**POOL, "influense": {}}, ["influense", 'Did you mean "influence"?']),
        (
            {**POOL, "influence": {"delift": {"template": "x"}}},
            ["influence.delift.template", "template_with"],
        ),
        ({**POOL, "zzz": 1}, ["zzz", "Known keys here: ", "selection"]),
        ({}, ["field pool", "missing"]),
        (
            {"pool": {"source": "x", "columns": {"promt": "q"}}},
            ["pool.columns.promt", 'Did you mean "prompt"?'],
        ),
        ({**POOL, "execution": {"devices": "gpu"}}, ["execution.devices", '["cuda:0", "cuda:1"]', "gpu"]),
        ({**POOL, "base_dir": "x"}, ["base_dir", "unknown key"]),
        ({**POOL, "influence": {"label_fraction": 0}}, ["influence.label_fraction", "greater than 0", "0"]),
        ({**POOL, "influence": {"function": "less2"}}, ["influence.function", "'delift'", "less2"]),
        ({**POOL, "selection": {"fraction": 0.1, "count": 3}}, ["selection", "exclude each other"]),
        ({**POOL, "selection": {"rule": "flcg"}}, ["flcg", "[selection.existing]"]),
        (
            {**POOL, "influence": {"delift": {"template_with": "{prompt}"}}},
            ["template_with lacks the placeholder {example_prompt}"],
        ),
        (
            {**POOL, "influence": {"delift": {"template_without": "{example_prompt} {prompt}"}}},
            ["influence.delift", "template_without names an example's placeholder"],
        ),
    ],
)
def test_wrong_config_names_the_field_and_the_mend(extra: dict[str, object], parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        parse_config(extra, file="job.toml")
    assert str(error.value).startswith("job.toml")
    for part in parts:
        assert part in str(error.value)


def test_broken_toml_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text('[pool]\nsource = "a\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"job.toml: broken TOML: .*line 2"):
        load_config(path)


def test_missing_config_file() -> None:
    with pytest.raises(UserError, match=r"nowhere.toml: no such config file"):
        load_config("nowhere.toml")


def test_auto_rule_follows_the_target() -> None:
    assert parse_config(POOL).resolve_rule() == "fl"
    assert parse_config({**POOL, "target": {"source": "t.jsonl"}}).resolve_rule() == "flmi"
    assert parse_config({**POOL, "selection": {"rule": "top-k"}}).resolve_rule() == "top-k"


def test_budget() -> None:
    assert Config.model_validate(POOL).selection.budget(1000) == 300
    assert Config.model_validate({**POOL, "selection": {"count": 7}}).selection.budget(5) == 5
    assert Config.model_validate({**POOL, "selection": {"fraction": 0.01}}).selection.budget(10) == 1


def test_run_key_ignores_where_and_how_but_not_what() -> None:
    data, models = {"pool": "v1"}, {"encoder": "e"}
    base = run_key(parse_config(POOL), data, models)
    same = {
        "pool": {"source": "elsewhere/other.jsonl"},
        "shards": {"rows": 7},
        "execution": {"retries": 5},
        "language_model": {"batch_tokens": 100, "device": "cpu"},
    }
    assert run_key(parse_config(same), data, models) == base
    for change in ({"seed": 1}, {"influence": {"label_fraction": 0.1}}, {"selection": {"count": 2}}):
        assert run_key(parse_config({**POOL, **change}), data, models) != base
    assert run_key(parse_config(POOL), {"pool": "v2"}, models) != base
    assert run_key(parse_config(POOL), data, {"encoder": "f"}) != base


def test_run_key_ignores_settings_of_functions_that_are_not_used() -> None:
    auto = parse_config(POOL)
    eta = parse_config({**POOL, "influence": {"labels": "auto"}, "selection": {"fraction": 0.3, "eta": 2.0}})
    assert run_key(auto, {}, {}) == run_key(eta, {}, {}), "resolved, and fl has no eta"
    other = {**POOL, "influence": {"function": "delift-se", "delift": {"template_without": "Q {prompt}"}}}
    plain = {**POOL, "influence": {"function": "delift-se"}}
    assert run_key(parse_config(other), {}, {}) == run_key(parse_config(plain), {}, {})


def test_run_key_knows_the_label_design_and_what_is_bought_later() -> None:
    influences: list[dict[str, object]] = [
        {}, {"labels": "block"}, {"labels": "block", "block_ratio": 2.0}, {"labels": "scattered"},
        {"labels": "all-targets"}, {"refine_pairs": 100}, {"refine_pairs": 100, "refine_rounds": 1},
    ]  # fmt: skip
    keys = [run_key(parse_config({**POOL, "influence": i}), {}, {}) for i in influences]
    assert len(set(keys)) == len(keys)
    idle = {**POOL, "influence": {"refine_rounds": 7}}
    assert run_key(parse_config(idle), {}, {}) == keys[0], "no rounds without pairs to buy"


def test_only_a_named_design_or_estimator_asks_to_learn() -> None:
    assert not parse_config(POOL).asks_to_learn
    for sections in ({"influence": {"labels": "block"}}, {"estimator": {"architecture": "ridge"}}):
        assert parse_config({**POOL, **sections}).asks_to_learn


def test_a_dumped_config_is_the_same_run() -> None:
    sections = {
        "pool": {"source": "p"}, "finetune": {}, "influence": {"function": "less"}
    }  # fmt: skip
    once = parse_config(sections)
    twice = parse_config(once.model_dump(mode="json"))
    assert run_key(once, {}, {}) == run_key(twice, {}, {})


@pytest.mark.parametrize("section", [{"bm25": {"k1": float("inf")}}, {"less": {"targets": []}}])
def test_settings_that_no_run_could_use_are_refused(section: dict[str, object]) -> None:
    with pytest.raises(UserError, match="influence"):
        parse_config({"pool": {"source": "p"}, "influence": section})


def test_a_mode_of_facility_location_needs_such_a_rule():
    job = {"pool": {"source": "a.jsonl"}, "target": {"source": "b.jsonl"}, "selection": {"mode": "sparse"}}
    for section in ({"selection": {"mode": "sparse", "rule": "top-k"}}, {"influence": {"function": "less"}}):
        with pytest.raises(
            UserError, match='selection.mode = "sparse" is of facility location.*set selection.rule'
        ):
            parse_config(job | section)
    assert parse_config(job).selection.mode == "sparse"


def test_another_mode_is_another_run():
    job = {"pool": {"source": "a.jsonl"}, "target": {"source": "b.jsonl"}}
    keys = {
        run_key(parse_config(job | {"selection": {"mode": m}}), {}, {}) for m in ("exact", "sparse", "auto")
    }
    assert len(keys) == 3
