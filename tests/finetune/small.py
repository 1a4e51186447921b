"""A small student, ten rows and short fine-tunings of one on the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from conftest import ORACLES, oracle_rows
from safetensors.torch import load_file

from nncift_core.config import Config, LanguageModelConfig, parse_config
from nncift_core.finetune import FineTuned, TrainingRows, fine_tune
from nncift_core.hashing import content_hash
from nncift_core.language_models import load_language_model

TINY = ORACLES / "tiny-lm"
FAST: dict[str, Any] = {"epochs": 2, "batch_size": 4, "rank": 4, "learning_rate": 5e-3}

Trained = tuple[FineTuned, dict[str, torch.Tensor], Path]


def job(base_dir: Path | None = None, teacher: str = str(TINY), **finetune: Any) -> Config:
    """A configuration of the small model; `finetune` changes keys of FAST."""
    settings = {k: v for k, v in (FAST | finetune).items() if v is not None}
    data = {"pool": {"source": "unused"}, "language_model": {"model": teacher}, "finetune": settings}
    return parse_config(data, base_dir=base_dir)


def rows_of(pairs: list[tuple[str, str]]) -> TrainingRows:
    """(prompt, response) pairs as rows with ids from 1000."""
    return TrainingRows(
        example_ids=tuple(1000 + k for k in range(len(pairs))),
        places=tuple(f'pool row {k} (id "r{k}")' for k in range(len(pairs))),
        content_hashes=tuple(content_hash(p, r) for p, r in pairs),
        prompts=tuple(p for p, _ in pairs),
        responses=tuple(r for _, r in pairs),
    )


PAIRS = [(str(r["prompt"]), str(r["response"])) for r in oracle_rows("pool")][:10]
ROWS = rows_of(PAIRS)


def tuned(
    folder: Path, config: Config | None = None, rows: TrainingRows = ROWS, seed: int = 0, **kw: Any
) -> tuple[FineTuned, dict[str, torch.Tensor]]:
    """What `fine_tune` returned and wrote."""
    folder.mkdir()
    done = kw.pop("by", fine_tune)(config or job(), rows, seed, "cpu", folder, **kw)
    return done, load_file(folder / "adapter_model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two adapters are bit-equal."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def gap(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest difference of a weight between two adapters."""
    assert a.keys() == b.keys()
    return max(float((a[k] - b[k]).abs().max()) for k in a)


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chat_student(folder: Path) -> Path:
    """tiny-lm with the markers and the chat template of ChatML."""
    plain = load_language_model(LanguageModelConfig(model=str(TINY)), "cpu")
    plain.tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    plain.tokenizer.chat_template = CHATML
    torch.manual_seed(0)
    plain.model.resize_token_embeddings(len(plain.tokenizer), mean_resizing=False)
    plain.model.save_pretrained(folder)
    plain.tokenizer.save_pretrained(folder)
    return folder
