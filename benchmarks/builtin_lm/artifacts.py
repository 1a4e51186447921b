"""Reads the training corpus, trains the tokenizer, and writes the model's files atomically."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import zstandard
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

CORPUS = Path(__file__).parent / "corpus.jsonl.zst"
EOS, PAD = "<|endoftext|>", "<|pad|>"
EOS_ID, PAD_ID = 0, 1
VOCABULARY, CONTEXT = 2048, 1024


def read_corpus() -> list[str]:
    """The training texts in the corpus's order (lines end at \\n only: texts may hold U+2028)."""
    raw = zstandard.ZstdDecompressor().decompress(CORPUS.read_bytes(), max_output_size=1 << 28)
    return [json.loads(line)["text"] for line in raw.decode("utf-8").split("\n") if line]


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level BPE of VOCABULARY tokens; every byte is a token, so any text survives a round trip.

    A space belongs to the word before it, not to the one after. So a prompt that ends in a space
    ("Response: ") and a response give the same tokens apart as in one text, and influence functions,
    which tokenise them apart (DELIFT's token rule), see what the model was trained on.
    """
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(r"\p{L}+ ?|\p{N}|[^\s\p{L}\p{N}]+ ?|\s+"), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write(aside)` on a name aside, flush it to disk and move it to `path`."""
    aside = path.with_name(f".{path.name}.part")
    write(aside)
    with aside.open("rb") as f:
        os.fsync(f.fileno())
    aside.chmod(0o644)
    os.replace(aside, path)


def save_text(path: Path, value: Any) -> None:
    """JSON, written atomically."""
    replace(path, lambda p: p.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8"))


def save_tokenizer(tokenizer: Tokenizer, out: Path) -> None:
    """tokenizer.json and tokenizer_config.json."""
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(out)


def save_model(model: LlamaForCausalLM, out: Path) -> None:
    """config.json, generation_config.json and the float16 weights (the tied head is left out)."""
    config = model.config.to_dict()
    config.update(architectures=["LlamaForCausalLM"], dtype="float16")
    config.pop("_name_or_path", None)
    save_text(out / "config.json", config)
    save_text(
        out / "generation_config.json",
        {"eos_token_id": EOS_ID, "pad_token_id": PAD_ID, "max_new_tokens": 128},
    )
    state = {n: p.detach().to(torch.float16).contiguous() for n, p in model.named_parameters()}
    replace(out / "model.safetensors", lambda p: save_file(state, p, metadata={"format": "pt"}))


def write_log(path: Path, log: list[list[Any]]) -> None:
    """loss.csv: step, tokens, seconds, mean train loss since the last line, held-out loss."""
    with path.open("w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(["step", "tokens", "seconds", "train_loss", "heldout_loss"])
        writer.writerows(log)
