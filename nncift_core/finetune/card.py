"""The model card beside trained weights: what they are, what they were made from, what the user adds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nncift_core.config import Config
from nncift_core.finetune.student import settings, student, student_is_local, student_name
from nncift_core.finetune.training import FineTuned
from nncift_core.hashing import digest

README = "README.md"


def model_card(
    config: Config,
    tuned: FineTuned,
    content_hashes: Sequence[str],
    *,
    subset: str,
    seed: int,
    key: str,
    run: str = "",
) -> str:
    """README.md for trained weights: front matter as the model hub reads it, then lineage as text.

    subset: which rows, by name; run: the run that trained them, "" where there is none. Holds no path of
    this machine, and no licence: that is the user's to name.
    """
    own = settings(config)
    rows = {
        "run": run or "none",
        "student": _named_student(config),
        "method": own.method,
        "subset": f"{subset}, seed {seed}",
        "training rows": f"{tuned.rows:,} (digest of their contents: {digest(sorted(content_hashes))})",
        "tokens of one pass": f"{tuned.tokens:,}, of which {tuned.response_tokens:,} are learned",
        "rows cut to the context": f"{tuned.truncated:,}",
        "tokens seen in training": f"{tuned.seen_tokens:,} in {tuned.seen_rows:,} rows",
        "optimiser steps": f"{tuned.steps:,}",
        "trained weights": f"{tuned.trainable_parameters:,}",
        "loss by pass, nats a response token": ", ".join(f"{loss:.4f}" for loss in tuned.losses),
        "key": key,
    }
    what = "LoRA adapters" if own.method != "full" else "A causal language model"
    return card_text(
        front_matter(config, own.method),
        f"{student_name(config)}, fine-tuned on {subset} rows",
        f"{what} fine-tuned with NN-CIFT: only responses were learned, prompts were read.",
        {
            "Lineage": rows,
            "Settings": {k: json.dumps(v, ensure_ascii=False) for k, v in own.values().items()},
        },
    )


def front_matter(config: Config, method: str) -> dict[str, Any]:
    """What the hub reads of a model of this student. A student that is no model of the hub is not named."""
    found: dict[str, Any] = {
        "library_name": "transformers" if method == "full" else "peft",
        "pipeline_tag": "text-generation",
        "tags": ["nncift", "fine-tuned", "merged" if method == "merged" else method],
    }
    if method == "merged":
        found["library_name"] = "transformers"
    if not student_is_local(config):
        found["base_model"] = student_name(config)
    return found


def card_text(
    front: Mapping[str, Any], title: str, about: str, tables: Mapping[str, Mapping[str, str]]
) -> str:
    """A card: front matter, a title, a sentence, two-column tables, and what the user has to add."""
    # JSON is YAML, and quotes whatever needs it.
    lines = ["---", *(f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in front.items())]
    lines += ["# license: name the licence of these weights here", "---", "", f"# {title}", "", about]
    for name, rows in tables.items():
        lines += ["", f"## {name}", "", "| what | value |", "| --- | --- |"]
        lines += [f"| {what} | {_cell(value)} |" for what, value in rows.items()]
    lines += [
        "",
        "## Licence",
        "",
        "Not named here. It follows from the licences of the student and of the training rows: fill in"
        " `license` above before these weights are passed on.",
        "",
    ]
    return "\n".join(lines)


def _named_student(config: Config) -> str:
    revision = student(config).revision
    return student_name(config) + (f" at revision {revision}" if revision else "")


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
