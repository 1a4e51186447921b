"""Making one model of a student and its adapter."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nncift_core.builtin import lm_path
from nncift_core.config import Config, parse_config
from nncift_core.errors import UserError
from nncift_core.finetune import (
    MODEL_SHAPE,
    MODEL_WEIGHTS,
    SHAPE,
    WEIGHTS,
    load_student,
    student,
    student_key,
    student_name,
)
from nncift_core.finetune.card import README, card_text, front_matter
from nncift_core.finetune.methods import save_model, save_tokenizer
from nncift_core.hub import quiet
from nncift_core.models import file_sha256, find_model
from nncift_core.pipeline.downstream import CARD
from nncift_core.store.remote.mirrors import bring
from nncift_core.store.runs import read_result, resolve_runs
from nncift_core.store.workspace import Workspace

Dtype = Literal["student", "float32"]


@dataclass(frozen=True)
class Merged:
    """A merged model: its folder, the adapter's, the student's name, the dtype of the weights written."""

    output: str
    adapter: str
    student: str
    dtype: str


def merge(
    source: str,
    output: Path,
    *,
    workspace: Path | None = None,
    model: str | None = None,
    dtype: Dtype = "student",
) -> Merged:
    """Add an adapter to its student's weights and write the whole model, tokenizer and card to `output`.

    W + (alpha / r) B A for every adapted matrix W, computed in float32. source: the folder of an adapter,
    or a run of `workspace` (its subset's adapter). model: the student where the adapter's own note of it is
    not enough (a local folder); dtype: of the weights written, the student's own or float32.

    Raises UserError for a folder without an adapter, an unknown run, a student that is not the one the
    adapter was trained on, an `output` that is not new or empty.
    """
    output = output.expanduser()
    folder = _adapter(source, workspace)
    shape, card = _shape(folder), _card(folder)
    config = _student_config(folder, shape, card, model)
    _check_output(output)
    merged, tokenizer = _merged(config, folder)
    written = _own_dtype(config) if dtype == "student" else "float32"
    import torch

    merged = merged.to(getattr(torch, written))
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".nncift-merge-") as scratch:
        made = Path(scratch) / "model"
        made.mkdir()
        with quiet():
            save_model(merged, made)
            save_tokenizer(tokenizer, made)
        (made / README).write_text(_readme(config, folder, card, written), encoding="utf-8")
        if output.is_dir():
            output.rmdir()
        shutil.move(made, output)
    return Merged(str(output), str(folder), student_name(config), written)


def _adapter(source: str, workspace: Path | None) -> Path:
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if workspace is None or not Workspace(workspace).exists():
        raise UserError(
            f'no folder "{source}", and no workspace with such a run',
            mend="Give the folder of an adapter, or a run and its --workspace.",
        )
    ws = Workspace.open(workspace)
    found = [] if source == "all" else resolve_runs(ws, source)
    if not found:
        raise UserError(f"run {source} has no result", mend="Let it finish, or give another run.")
    run = found[0]
    result = read_result(ws, run) or {}
    if result.get("kind") is not None:
        raise UserError(
            f"run {run} is of `nncift {result['kind']}` and has many models",
            mend="Give the folder of one: `nncift query` on the views subsets and lineage names them.",
        )
    adapter = (result.get("facts") or {}).get("adapter")
    if not adapter:
        raise UserError(f"run {run} trained no model", mend="Add [finetune] to its config and run it.")
    folder = ws.root / str(adapter)
    bring(folder, folder.glob("*"))
    return folder


def _shape(folder: Path) -> dict[str, Any]:
    if (folder / WEIGHTS).is_file() and (folder / SHAPE).is_file():
        try:
            found: dict[str, Any] = json.loads((folder / SHAPE).read_text(encoding="utf-8"))
            return found
        except ValueError as e:
            raise UserError(f"is no JSON ({e})", file=folder / SHAPE, mend="Fetch it anew.") from None
    whole = (folder / MODEL_WEIGHTS).is_file()
    raise UserError(
        "is a whole model: there is nothing to merge" if whole else f"holds no {WEIGHTS} with its {SHAPE}",
        file=folder,
        mend="Use it as it is." if whole else "Give the folder of a LoRA adapter.",
    )


def _card(folder: Path) -> dict[str, Any]:
    """What the training noted; empty for an adapter that was not made here."""
    path = folder / CARD
    if not path.is_file():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    except ValueError as e:
        raise UserError(f"is no JSON ({e})", file=path, mend="Remove it, or fetch it anew.") from None


def _student_config(folder: Path, shape: dict[str, Any], card: dict[str, Any], model: str | None) -> Config:
    """A config whose student is the adapter's, checked where the training noted which one it was."""
    name = model or shape.get("base_model_name_or_path")
    if not name:
        raise UserError("names no model", file=folder / SHAPE, mend="Give --student.")
    own = card.get("finetune") or {}
    settings: dict[str, Any] = {"model": str(name), "dtype": "float32"}
    if own.get("trust_remote_code"):
        settings["trust_remote_code"] = True
    if shape.get("revision") and model is None:
        settings["revision"] = shape["revision"]
    config = parse_config({"pool": {"source": "unused"}, "finetune": settings}, base_dir=Path.cwd())
    try:
        keys = _keys(settings)
    except UserError as e:
        raise UserError(
            f'the adapter\'s student "{name}" is not found: {e.what}',
            file=folder / SHAPE,
            mend="Give its folder or hub id with --student.",
        ) from e
    if card and card.get("student_key") not in keys:
        raise UserError(
            f'was trained on another model than "{name}"',
            file=folder,
            mend="Give the student it was trained on with --student.",
        )
    return config


def _keys(settings: dict[str, Any]) -> set[str]:
    """Keys of the student under every setting that changes no weight on disk."""
    found = set()
    for dtype in ("auto", "float32", "bfloat16", "float16"):
        for method in ("lora", "qlora"):
            for template in ("{prompt}", "chat"):
                own = {**settings, "dtype": dtype, "method": method, "template": template}
                config = parse_config({"pool": {"source": "unused"}, "finetune": own}, base_dir=Path.cwd())
                found.add(student_key(config))
    return found


def _merged(config: Config, folder: Path) -> tuple[Any, Any]:
    """The student in float32 with the adapter added, and the student with its tokenizer."""
    from peft import PeftModel

    base = load_student(config, "cpu")
    with quiet(), warnings.catch_warnings():
        # peft asks transformers for a property by its former name.
        warnings.simplefilter("ignore", FutureWarning)
        try:
            adapted = PeftModel.from_pretrained(
                base.model, str(folder), is_trainable=False, torch_device="cpu", local_files_only=True
            )
        except (RuntimeError, ValueError, KeyError, TypeError) as e:
            raise UserError(
                f"does not fit the student ({e})", file=folder, mend="Give its own with --student."
            ) from e
        return adapted.merge_and_unload(), base


def _own_dtype(config: Config) -> str:
    """Of the weights in the student's files, as its config tells."""
    own = student(config)
    found = find_model("language_model", own.model, own.revision, lm_path, config.base_dir).folder()
    shape = json.loads((found / MODEL_SHAPE).read_text(encoding="utf-8"))
    told = shape.get("dtype") or shape.get("torch_dtype")
    return told if told in ("float32", "bfloat16", "float16") else "float32"


def _check_output(output: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError("is there already", file=output, mend="Give a new or empty folder.")


def _readme(config: Config, folder: Path, card: dict[str, Any], dtype: str) -> str:
    rows = {
        "student": student_name(config) + (f" at revision {r}" if (r := student(config).revision) else ""),
        "adapter weights (SHA-256)": file_sha256(folder / WEIGHTS),
        "weights": f"{dtype}, merged in float32",
    }
    noted = {
        "subset": card.get("subset"), "seed": card.get("seed"), "training rows": card.get("rows"),
        "optimiser steps": card.get("steps"), "key of the fine-tune": card.get("key"),
    }  # fmt: skip
    rows |= {name: str(found) for name, found in noted.items() if found is not None}
    return card_text(
        front_matter(config, "merged"),
        f"{student_name(config)}, with a fine-tuned adapter merged in",
        "A causal language model: the student's weights with the adapter added to them.",
        {"Lineage": rows},
    )
