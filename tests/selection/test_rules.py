"""The table of rules agrees with the config and with the functions it names."""

from __future__ import annotations

import inspect
from typing import get_args

import numpy as np
import pytest

from nncift_core.config import SelectionConfig
from nncift_core.selection import RULES, RuleName


def test_rules_are_those_of_the_config() -> None:
    configured = set(get_args(SelectionConfig.model_fields["rule"].annotation)) - {"auto"}
    assert set(RULES) == configured == set(get_args(RuleName))


@pytest.mark.parametrize("name", sorted(RULES))
def test_parameters_exist_in_config_and_function_with_equal_defaults(name: RuleName) -> None:
    rule = RULES[name]
    arguments = inspect.signature(rule.select).parameters
    for parameter in rule.parameters:
        assert arguments[parameter].default == SelectionConfig.model_fields[parameter].default
    first = "scores" if rule.reads == "scores" else "similarity"
    assert next(iter(arguments)) == first
    assert ("existing" in arguments) == rule.existing == (name == "flcg")


def test_non_negative_is_asked_for_matrices_only() -> None:
    assert {name: rule.non_negative for name, rule in RULES.items()} == {
        "top-k": False,
        "fl": True,
        "flmi": True,
        "flcg": True,
    }


def test_select_can_be_called_from_the_table() -> None:
    s = np.array([[0.1, 0.9], [0.2, 0.3]])
    assert RULES["fl"].select(s, 1).order.tolist() == [1]
    assert RULES["flmi"].select(s, 1, eta=0.5).gains.tolist() == pytest.approx([1.2 + 0.45])
    assert RULES["flcg"].select(s, s[:, :1], 1, nu=1.0).gains.tolist() == pytest.approx([0.9])
    assert RULES["top-k"].select(s[0], 1).gains.tolist() == [0.9]
