"""VoG and TracIn beside a loop over examples, in one run: of a head, and of the builtin encoder.

The loop: per example and checkpoint, `backward()` of the label's logit, and of the cross entropy, with the
model as it was trained, then `.grad` of the embedding and of the weights looked at. The frugal loop does what
autograd can be asked for: one forward pass for both, only the gradients that are wanted, everything else
frozen. (Ours takes the head's part of TracIn along.) All sides read the same checkpoints, loading included;
rows per second count a row through all checkpoints. Rounds in turns, the best of each counts. With one thread
seconds are its CPU time, so that what else the machine does counts less; with more they are wall time.

Run: OMP_NUM_THREADS=1 python benchmarks/prune_gradients.py [--rows 2000 --loop-rows 200 --threads 1]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine

from nncift_core.classification.contract import Checkpoint
from nncift_core.classification.full import train_encoder
from nncift_core.classification.heads import head_from, layers_of, make_head
from nncift_core.classification.texts import load_text_encoder, tokenise
from nncift_core.config_prune import TrainingConfig
from nncift_core.encoders import builtin_folder
from nncift_core.scores.encoder_gradients import encoder_gradient_scores, load_encoder_weights
from nncift_core.scores.encoder_layers import embedding_layer, last_layer
from nncift_core.scores.head_gradients import head_gradient_scores
from nncift_core.scores.tracin import tracin
from nncift_core.scores.vog import vog

Names = tuple[str, ...]
Work = Callable[[], dict[str, np.ndarray]]

DIM, CLASSES, CHECKPOINTS = 384, 151, 10
ENCODER_ROWS, ENCODER_CHECKPOINTS = 64, 2
ROUNDS = 3
CASES: tuple[Names, ...] = (("vog",), ("tracin",), ("vog", "tracin"))

_START = ("please", "hey,", "can you", "I would like you to", "could you quickly", "I need to know how to")
_WHAT = (
    "move {n} dollars from my savings to my checking account",
    "tell me what the weather will be like in {p} this weekend",
    "book a table for {n} at an Italian place near {p}",
    "find out why my card was declined at the hotel in {p}",
    "set an alarm for {n} in the morning and remind me of the meeting",
    "translate the phrase where is the train station for my trip to {p}",
)
_WHERE = ("Paris", "Chicago", "Lisbon", "Nairobi", "Kyoto")


def sentences(count: int) -> list[str]:
    """Requests of about 15 tokens, drawn from patterns."""
    rng = np.random.default_rng(0)
    drawn = [[each[rng.integers(len(each))] for each in (_START, _WHAT, _WHERE)] for _ in range(count)]
    return [f"{a} {b.format(n=rng.integers(2, 90), p=c)}" for a, b, c in drawn]


def best(work: Sequence[Work], clock: Callable[[], float]) -> list[tuple[float, dict[str, np.ndarray]]]:
    """Of each: the least seconds of ROUNDS in turns, and what it gave."""
    seconds, found = [float("inf")] * len(work), [dict[str, np.ndarray]()] * len(work)
    for _ in range(ROUNDS):
        for k, each in enumerate(work):
            start = clock()
            found[k] = each()
            seconds[k] = min(seconds[k], clock() - start)
    return list(zip(seconds, found, strict=True))


def report(
    part: str, names: Names, rows: int, loop_rows: int, batched: Work, loop: Callable[[bool], dict[str, Any]]
) -> None:
    """One line of the table; the loops' first rows must have the same scores."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    work: list[Work] = [batched, lambda: loop(True), lambda: loop(False)]
    (seconds, ours), (plain_seconds, plain), (frugal_seconds, frugal) = best(work, clock)
    apart = max(
        float((np.abs(ours[n][:loop_rows] - other[n]) / other[n]).max())
        for n in names
        for other in (plain, frugal)
    )
    fast, slow, frugal_rate = rows / seconds, loop_rows / plain_seconds, loop_rows / frugal_seconds
    print(
        f"{part:8} {' + '.join(names):13} {slow:9,.1f} {frugal_rate:9,.1f} {fast:9,.1f} "
        f"{fast / slow:8.1f}x {fast / frugal_rate:8.1f}x {apart:9.0e}",
        flush=True,
    )


class Example:
    """One example's gradients by autograd.

    forward gives logits [1, K] and the embedding; weights: those TracIn looks at; modules: all that has
    gradients. plain: a pass for each score, `backward()`, then `.grad`, the model as it was trained; else one
    pass for both, the wanted gradients only, everything else frozen.
    """

    def __init__(
        self, modules: list[torch.nn.Module], weights: list[torch.nn.Parameter], names: Names, plain: bool
    ) -> None:
        self.modules, self.weights, self.names, self.plain = modules, weights, names, plain
        for module in modules:
            module.requires_grad_(plain)
        for weight in weights:
            weight.requires_grad_(plain or "tracin" in names)

    def __call__(
        self, forward: Callable[[], tuple[torch.Tensor, torch.Tensor]], label: int
    ) -> tuple[torch.Tensor | None, float]:
        """The embedding's gradient of the label's logit; the squared norm of the weights' of the loss."""
        at_e, norm = None, 0.0
        logits, e = forward()
        if "vog" in self.names:
            if self.plain:
                e.retain_grad()
                self._backward(logits[0, label])
                # Taken away, or the loss's would be added to it.
                at_e, e.grad = e.grad, None
            else:
                (at_e,) = torch.autograd.grad(logits[0, label], e, retain_graph="tracin" in self.names)
        if "tracin" in self.names:
            if self.plain and "vog" in self.names:
                logits, _ = forward()
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor([label]))
            if self.plain:
                self._backward(loss)
                found = [w.grad for w in self.weights]
            else:
                found = list(torch.autograd.grad(loss, self.weights))
            norm = float(torch.stack([g.square().sum() for g in found if g is not None]).sum())
        return at_e, norm

    def _backward(self, value: torch.Tensor) -> None:
        for module in self.modules:
            module.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]


def head_loop(
    checkpoints: Sequence[Checkpoint], x: np.ndarray, labels: np.ndarray, names: Names, plain: bool
) -> dict[str, np.ndarray]:
    """The scores of a head, one example after the other."""
    at_x = np.zeros((len(checkpoints), *x.shape), np.float32)
    norms = np.zeros((len(checkpoints), len(x)))
    for c, checkpoint in enumerate(checkpoints):
        head = head_from(checkpoint.layers)
        example = Example([head], list(head.parameters()), names, plain)
        for i, label in enumerate(labels.tolist()):
            row = torch.from_numpy(x[i : i + 1]).requires_grad_("vog" in names)
            g, norms[c, i] = example(lambda row=row, head=head: (head(row), row), label)  # type: ignore[misc]
            if g is not None:
                at_x[c, i] = g[0].numpy()
    out = {"vog": vog(at_x)} if "vog" in names else {}
    return out | {"tracin": tracin(norms, np.array([c.learning_rate for c in checkpoints]))}


def encoder_loop(
    folder: Path,
    weights: Path,
    checkpoints: Sequence[Checkpoint],
    texts: list[str],
    labels: np.ndarray,
    names: Names,
    plain: bool,
) -> dict[str, np.ndarray]:
    """The scores of an encoder, one example after the other, without padding."""
    encoder = load_text_encoder(folder, "cpu")
    rows = tokenise(encoder, texts, None, 128)
    kept: list[torch.Tensor] = []

    def keep(_module: object, _args: object, output: torch.Tensor) -> torch.Tensor:
        kept[:] = [output if output.requires_grad else output.requires_grad_("vog" in names)]
        return kept[0]

    embedding_layer(encoder.model).register_forward_hook(keep)
    at_e: list[list[np.ndarray]] = [[] for _ in texts]
    norms = np.zeros((len(checkpoints), len(texts)))
    for c, checkpoint in enumerate(checkpoints):
        load_encoder_weights(encoder, weights / checkpoint.weights)
        head = head_from(checkpoint.layers)
        last = list(last_layer(encoder.model).parameters())
        example = Example([encoder.model, head], last, names, plain)
        for i, label in enumerate(labels.tolist()):

            def forward(i: int = i, head: Any = head) -> tuple[torch.Tensor, torch.Tensor]:
                logits = head(encoder.pooled(rows.batch(np.array([i]), "cpu")))
                return logits, kept[0]

            g, norms[c, i] = example(forward, label)
            if g is not None:
                at_e[i].append(g.numpy())
    out = {"vog": np.array([vog(np.stack(g))[0] for g in at_e])} if "vog" in names else {}
    return out | {"tracin": tracin(norms, np.array([c.encoder_rate for c in checkpoints]))}


def heads(rows: int, loop_rows: int) -> None:
    """A paper's head on embeddings of clinc150's sizes."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, DIM)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    labels = rng.integers(0, CLASSES, rows)
    drawn = [layers_of(make_head("paper", DIM, CLASSES, 256, 0.1, seed)) for seed in range(CHECKPOINTS)]
    checkpoints = [Checkpoint(k + 1, k + 1.0, 1e-3, layers) for k, layers in enumerate(drawn)]
    for names in CASES:
        report(
            "head",
            names,
            rows,
            loop_rows,
            partial(head_gradient_scores, checkpoints, x, labels, names),
            partial(head_loop, checkpoints, x[:loop_rows], labels[:loop_rows], names),
        )


def encoders() -> None:
    """The builtin encoder after a short training."""
    texts = sentences(ENCODER_ROWS)
    labels = np.arange(ENCODER_ROWS) % 8
    settings = TrainingConfig(mode="full", epochs=1, batch_size=32, checkpoints=ENCODER_CHECKPOINTS)
    folder = builtin_folder()
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch)
        run = train_encoder(
            folder,
            texts,
            None,
            labels,
            8,
            settings,
            seed=0,
            checkpoints=ENCODER_CHECKPOINTS,
            weights_dir=weights,
        )
        given = (folder, weights, run.checkpoints)
        for names in CASES:
            report(
                "encoder",
                names,
                ENCODER_ROWS,
                ENCODER_ROWS,
                partial(encoder_gradient_scores, *given, texts, None, labels, names, settings),
                partial(encoder_loop, *given, texts, labels, names),
            )
        lengths = tokenise(load_text_encoder(folder, "cpu"), texts, None, 128).lengths()
        print(f"texts: {lengths.mean():.1f} tokens on average, {lengths.min()}-{lengths.max()}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--loop-rows", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{machine()}; {torch.get_num_threads()} torch thread(s)")
    print(
        f"head: {DIM} -> 256 -> 256 -> {CLASSES}, {CHECKPOINTS} checkpoints, {args.rows} rows; "
        f"encoder: builtin, {ENCODER_CHECKPOINTS} checkpoints, {ENCODER_ROWS} rows; rows per second"
    )
    print(
        f"{'part':8} {'scores':13} {'loop':>9} {'frugal':>9} {'batched':>9} {'/ loop':>9} {'/ frugal':>9} "
        f"{'apart':>9}"
    )
    heads(args.rows, min(args.rows, args.loop_rows))
    encoders()


if __name__ == "__main__":
    main()
