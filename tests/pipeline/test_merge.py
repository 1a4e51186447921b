"""One model of a student and its adapter: the same answers, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from conftest import ORACLES
from finetune.small import TINY, job, tuned
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from typer.testing import CliRunner

from flows import cli_merge
from nncift_core.config import LanguageModelConfig
from nncift_core.errors import UserError
from nncift_core.finetune import load_fine_tuned, student_key
from nncift_core.language_models import load_language_model
from nncift_core.pipeline.merge import merge


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the builtin model; only read it."""
    folder = tmp_path_factory.mktemp("merge") / "adapter"
    config = job(teacher="builtin", epochs=1)
    done, _ = tuned(folder, config)
    card = {"student_key": student_key(config), "finetune": {}, "rows": done.rows, "subset": "selected"}
    (folder / "training.json").write_text(json.dumps(card), encoding="utf-8")
    return folder


def test_the_merged_model_answers_as_student_and_adapter_do(adapter: Path, tmp_path: Path) -> None:
    done = merge(str(adapter), tmp_path / "out" / "whole", dtype="float32")
    assert (done.student, done.dtype) == ("builtin", "float32")
    whole = load_language_model(LanguageModelConfig(model=str(tmp_path / "out" / "whole")), "cpu")
    ours = load_fine_tuned(job(teacher="builtin"), adapter, "cpu")
    prompts, responses = ours.tokenize(["Name a colour.", "2 + 2 ="]), ours.tokenize(["red and blue", "4"])
    for a, b in zip(
        whole.response_log_probs(prompts, responses),
        ours.response_log_probs(prompts, responses),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-4)
    card = ModelCard((tmp_path / "out" / "whole" / "README.md").read_text(encoding="utf-8"))
    assert card.data.library_name == "transformers" and "| training rows | 10 |" in card.text
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["whole"]


def test_the_weights_have_the_students_own_dtype_by_default(adapter: Path, tmp_path: Path) -> None:
    assert merge(str(adapter), tmp_path / "a").dtype == "float16"
    assert {str(p.dtype) for p in load_file(tmp_path / "a" / "model.safetensors").values()} == {
        "torch.float16"
    }


def test_a_student_in_a_folder_is_named_by_the_user_and_checked(tmp_path: Path) -> None:
    config = job()
    tuned(tmp_path / "a", config)
    (tmp_path / "a" / "training.json").write_text(json.dumps({"student_key": student_key(config)}))
    with pytest.raises(UserError, match="--student"):
        merge(str(tmp_path / "a"), tmp_path / "out")
    with pytest.raises(UserError, match='trained on another model than "builtin"'):
        merge(str(tmp_path / "a"), tmp_path / "out", model="builtin")
    assert not (tmp_path / "out").exists()
    assert merge(str(tmp_path / "a"), tmp_path / "out", model=str(TINY)).student == "tiny-lm"


@pytest.mark.parametrize("kind", ["absent", "empty", "whole", "taken", "misfit", "dtype"])
def test_wrong_input_ends_in_one_error_that_says_what_to_do(adapter: Path, tmp_path: Path, kind: str) -> None:
    source, output, more = tmp_path / "a", tmp_path / "out", list[str]()
    if kind != "absent":
        shutil.copytree(adapter, source)
    if kind == "empty":
        (source / "adapter_model.safetensors").unlink()
    if kind == "whole":
        source = ORACLES / "tiny-lm"
    if kind == "taken":
        output.mkdir()
        (output / "x").write_text("mine", encoding="utf-8")
    if kind == "misfit":
        (source / "training.json").unlink()
        more = ["--student", str(TINY)]
    if kind == "dtype":
        more = ["--dtype", "int8"]
    app = typer.Typer()
    cli_merge.register(app)
    command = [str(source), "--output", str(output), "--workspace", str(tmp_path / "ws"), *more]
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, UserError) and done.exception.mend
    assert not output.exists() or [p.name for p in output.iterdir()] == ["x"]


def test_the_command_prints_what_it_made(adapter: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    cli_merge.register(app)
    done = CliRunner().invoke(app, [str(adapter), "--output", str(tmp_path / "o"), "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["output"] == str(tmp_path / "o")
