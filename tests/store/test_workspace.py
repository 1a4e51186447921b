"""Which folders can become a workspace."""

from __future__ import annotations

from pathlib import Path

import pytest

from nncift_core.errors import UserError
from nncift_core.store.workspace import Workspace


def test_a_process_killed_while_it_made_the_workspace_does_not_spoil_the_folder(tmp_path: Path) -> None:
    (tmp_path / ".nncift.json.1a2b3c4d.part").write_text("{")
    assert Workspace.create(tmp_path).exists()


def test_a_folder_in_other_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".hidden").touch()
    with pytest.raises(UserError, match="not empty and is no nncift workspace"):
        Workspace.create(tmp_path)
