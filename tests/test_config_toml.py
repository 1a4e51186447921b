"""Configs as TOML: what is written is what `tomllib` and the config reader read."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nncift_core.builtin.quickstart import quickstart_config
from nncift_core.config import parse_config
from nncift_core.config_toml import to_toml

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PLAIN = st.one_of(
    TEXT, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.none()
)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=12,
)


def without_none(value: Any) -> Any:
    """`value` as TOML can hold it."""
    if isinstance(value, dict):
        return {k: without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [without_none(v) for v in value if v is not None]
    return value


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(TEXT, VALUES, max_size=4))
def test_whatever_is_written_reads_back(config: dict[str, Any]) -> None:
    assert json.dumps(tomllib.loads(to_toml(config)), sort_keys=True) == json.dumps(
        without_none(config), sort_keys=True
    )


def test_a_real_config_reads_back_to_itself(tmp_path: Path) -> None:
    config = quickstart_config()
    again = parse_config(tomllib.loads(to_toml(config.model_dump(mode="json"))))
    assert again.model_dump() == config.model_dump()


def test_sections_and_keys_look_as_a_person_writes_them() -> None:
    config = {
        "seed": 0,
        "a": {"x": 1e-05, "b": {"t": 'say "hi"\n'}},
        "odd key": {"list": [{"k": True}, None]},
    }
    assert to_toml(config) == (
        'seed = 0\n\n[a]\nx = 1e-05\n\n[a.b]\nt = "say \\"hi\\"\\n"\n\n["odd key"]\nlist = [{k = true}]\n'
    )


def test_special_floats_and_refusals() -> None:
    read = tomllib.loads(to_toml({"a": math.inf, "b": -math.inf, "c": math.nan, "d": "\x7f\x00\x85"}))
    assert (read["a"], read["b"], read["d"]) == (math.inf, -math.inf, "\x7f\x00\x85")
    assert math.isnan(read["c"])
    with pytest.raises(TypeError, match="bytes"):
        to_toml({"a": b""})
    with pytest.raises(ValueError):
        to_toml({"a": "\ud800"})
