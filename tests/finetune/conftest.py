"""The student and one fine-tuning of it, made once and only read."""

from __future__ import annotations

import pytest
from finetune.small import Trained, job, tuned

from nncift_core.finetune import load_student
from nncift_core.language_models import LanguageModel


@pytest.fixture(scope="session")
def tiny() -> LanguageModel:
    """The student before any training."""
    return load_student(job(), "cpu")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """What one fine-tuning of it returned and wrote, and the folder; do not write there."""
    folder = tmp_path_factory.mktemp("trained") / "adapter"
    return *tuned(folder), folder
