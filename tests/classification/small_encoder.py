"""A tiny random BERT with a word tokenizer of its own, saved as a folder, and rows in its words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

WORDS = [f"w{k}" for k in range(24)]
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def save_tokenizer(folder: Path, specials: bool = True) -> None:
    """A tokenizer of WORDS; specials: whether it wraps texts in [CLS] and [SEP]."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    tokenizer: Any = Tokenizer(WordLevel({w: k for k, w in enumerate(_SPECIAL + WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    if specials:
        tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=32,
    ).save_pretrained(str(folder))


def save_bert(folder: Path, **changes: Any) -> Path:
    """Two layers of width 16; large weights, so that gradients differ between rows."""
    from transformers import BertConfig, BertModel

    sizes: dict[str, Any] = {
        "vocab_size": len(_SPECIAL) + len(WORDS),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 32,
        "initializer_range": 0.3,
    }
    return save(BertModel, BertConfig(**(sizes | changes)), folder)


def save(kind: Any, config: Any, folder: Path) -> Path:
    """A model of random weights, with the tokenizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kind(config).save_pretrained(str(folder))
    save_tokenizer(folder)
    return folder


def rows(n: int, classes: int = 3, seed: int = 0, longest: int = 9) -> tuple[list[str], np.ndarray]:
    """Texts of 1..longest words, and labels [n]; a class prefers words of its own."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    texts = []
    for label in labels:
        own = rng.integers(0, len(WORDS) // classes, rng.integers(1, longest + 1)) * classes + label
        texts.append(" ".join(WORDS[k] for k in own))
    return texts, labels
