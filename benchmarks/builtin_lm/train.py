"""Trains the builtin language model: own byte-level BPE, Llama-style decoder, one CPU thread.

    python -m benchmarks.builtin_lm.train --minutes 40 --threads 1

With --minutes the learning rate follows the clock, so that a busy machine still ends the schedule;
with --steps it follows the step count and the weights are reproducible on the same machine.
A usable model is in the output folder from the first save on: files are replaced atomically.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.builtin_lm.artifacts import (
    CONTEXT,
    EOS_ID,
    PAD_ID,
    VOCABULARY,
    read_corpus,
    replace,
    save_model,
    save_tokenizer,
    train_tokenizer,
    write_log,
)

OUT = Path(__file__).parents[2] / "nncift_core" / "builtin" / "lm"
TOKENS_PER_STEP = 2048
SEQUENCE = 512
HELD_OUT = 300
IGNORE = -100
ADAMW_LR, MUON_LR, WEIGHT_DECAY = 3e-3, 1e-2, 0.05
FIRST_SAVE, SAVE_EVERY = 90.0, 300.0


def new_model() -> LlamaForCausalLM:
    """About 1.4 M parameters, so that the float16 weights stay under 3 MB."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=432,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
        use_cache=True,
        initializer_range=0.02,
    )
    return LlamaForCausalLM(config)


def pack(documents: list[list[int]], length: int, rng: random.Random) -> list[list[list[int]]]:
    """One epoch of sequences, each a list of whole documents that together fit in `length` tokens.

    First fit in random order over a few open sequences; the few documents over CONTEXT were cut
    before (and counted). Documents over `length` but within CONTEXT make a sequence alone.
    """
    order = list(documents)
    rng.shuffle(order)
    done: list[list[list[int]]] = []
    open_: list[tuple[int, list[list[int]]]] = []
    for document in order:
        for k, (used, group) in enumerate(open_):
            if used + len(document) <= length:
                group.append(document)
                open_[k] = (used + len(document), group)
                break
        else:
            open_.append((len(document), [document]))
            if len(open_) > 16:
                fullest = max(range(len(open_)), key=lambda i: open_[i][0])
                done.append(open_.pop(fullest)[1])
    done += [group for _, group in open_]
    rng.shuffle(done)
    return done


def batches(documents: list[list[int]], rng: random.Random) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (input_ids, labels), each [sequences, length]; every fourth step's sequences are CONTEXT long.

    Long sequences let the rotary positions over SEQUENCE be seen too, since a pair of long rows needs them.
    """
    lengths = (SEQUENCE, SEQUENCE, SEQUENCE, CONTEXT)
    waiting: dict[int, list[list[list[int]]]] = {SEQUENCE: [], CONTEXT: []}
    step = 0
    while True:
        length = lengths[step % len(lengths)]
        count = TOKENS_PER_STEP // length
        if len(waiting[length]) < count:
            waiting[length] += pack(documents, length, rng)
        yield collate([waiting[length].pop() for _ in range(count)])
        step += 1


def collate(groups: list[list[list[int]]]) -> tuple[Tensor, Tensor]:
    """Concatenate each group's documents and pad on the right: two int64 tensors [groups, longest]."""
    flat = [[t for document in group for t in document] for group in groups]
    longest = max(map(len, flat))
    ids = torch.tensor([f + [PAD_ID] * (longest - len(f)) for f in flat])
    labels = torch.tensor([f + [IGNORE] * (longest - len(f)) for f in flat])
    return ids, labels


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, documents: list[list[int]]) -> float:
    """Mean next-token loss in nats over the held-out documents, each alone in its sequence."""
    model.train(False)
    total, count = 0.0, 0
    ordered = sorted(documents, key=len)
    for k in range(0, len(ordered), 8):
        ids, labels = collate([[d] for d in ordered[k : k + 8]])
        logits = model(input_ids=ids).logits[:, :-1]
        total += float(
            torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="sum")
        )
        count += int((labels[:, 1:] != IGNORE).sum())
    model.train()
    return total / count


def optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for the embedding and the norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=WEIGHT_DECAY, adjust_lr_fn="original"),
        torch.optim.AdamW(others, lr=ADAMW_LR, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def schedule(progress: float, step: int, warmup: int = 80) -> float:
    """Linear warm-up over `warmup` steps, then a cosine from 1 to 0.02 over `progress` in 0..1."""
    cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return min(1.0, (step + 1) / warmup) * cosine


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Token ids with a final EOS; over CONTEXT tokens is cut, and the number cut is printed."""
    documents = [e.ids + [EOS_ID] for e in tokenizer.encode_batch(texts)]
    cut = sum(len(d) > CONTEXT for d in documents)
    tokens = sum(map(len, documents))
    print(f"{len(documents)} documents, {tokens} tokens, {cut} cut at {CONTEXT} tokens", flush=True)
    return [d[:CONTEXT] for d in documents]


class Recorder:
    """Saves checkpoints and keeps the loss log of one training run."""

    def __init__(self, model: LlamaForCausalLM, held_out: list[list[int]], out: Path) -> None:
        self.model, self.held_out, self.out = model, held_out, out
        self.start = time.monotonic()
        self.step, self.tokens, self.due = 0, 0, FIRST_SAVE
        self.running: list[float] = []
        self.log: list[list[Any]] = []

    def seconds(self) -> float:
        """Seconds since the training began."""
        return time.monotonic() - self.start

    def add(self, loss: float, tokens: int) -> None:
        """Count one step; save when a save is due."""
        self.running.append(loss)
        self.step, self.tokens = self.step + 1, self.tokens + tokens
        if self.seconds() >= self.due:
            self.checkpoint()
            self.due = self.seconds() + SAVE_EVERY

    def checkpoint(self) -> float:
        """Save the weights and a line of loss.csv; returns the held-out loss."""
        loss, seconds = held_out_loss(self.model, self.held_out), self.seconds()
        recent = sum(self.running) / max(1, len(self.running))
        self.running.clear()
        self.log.append([self.step, self.tokens, round(seconds, 1), round(recent, 4), round(loss, 4)])
        save_model(self.model, self.out)
        replace(self.out / "loss.csv", lambda p: write_log(p, self.log))
        done = f"step {self.step} tokens {self.tokens} {seconds:.0f} s"
        print(f"{done} train {recent:.4f} held-out {loss:.4f}", flush=True)
        return loss


def train(minutes: float, steps: int | None, seed: int, out: Path) -> None:
    """Train and leave the model, its tokenizer and loss.csv in `out`."""
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    texts = read_corpus()
    tokenizer = train_tokenizer(texts[HELD_OUT:])
    save_tokenizer(tokenizer, out)
    documents = encode(tokenizer, texts)
    feed = batches(documents[HELD_OUT:], random.Random(seed))
    model = new_model()
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    optims = optimizers(model)
    groups = [(group, group["lr"]) for o in optims for group in o.param_groups]
    recorder = Recorder(model, documents[:HELD_OUT], out)
    model.train()
    while True:
        progress = recorder.seconds() / (60 * minutes) if steps is None else recorder.step / steps
        if progress >= 1:
            break
        ids, labels = next(feed)
        for group, lr in groups:
            group["lr"] = lr * schedule(progress, recorder.step)
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in optims:
            o.step()
            o.zero_grad()
        recorder.add(float(loss.detach()), int((labels != IGNORE).sum()))
    speed = recorder.tokens / recorder.seconds()
    print(f"final held-out loss {recorder.checkpoint():.4f} nats a token, {speed:.0f} tokens/s")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--steps", type=int, default=None, help="train this many steps instead of --minutes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args.minutes, args.steps, args.seed, args.out)


if __name__ == "__main__":
    main()
