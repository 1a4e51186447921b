"""What a person is told of a function's state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nncift_core.pipeline.state import State, facts_of_state
from nncift_core.store.workspace import Workspace


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ({"steps": 8, "losses": [2.5, 1.5], "truncated_examples": 3},
         {"state_steps": 8, "state_first_loss": 2.5, "state_last_loss": 1.5, "truncated_warm_up_rows": 3}),
        ({"steps": 8, "losses": [], "truncated_examples": 0}, {"state_steps": 8}),
        (None, {}),
    ],
)  # fmt: skip
def test_training_and_what_it_cut_are_told(
    tmp_path: Path, written: dict[str, Any] | None, told: dict[str, Any]
) -> None:
    ws = Workspace.create(tmp_path / "ws")
    state = State("0123456789abcdef", np.arange(5), ready=True)
    ws.state_dir(state.key).mkdir(parents=True)
    if written is not None:
        (ws.state_dir(state.key) / "state.json").write_text(json.dumps(written), encoding="utf-8")
    assert facts_of_state(ws, state) == {"state_rows": 5, **told}
