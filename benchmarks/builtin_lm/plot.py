"""Draws the builtin language model's loss curve from loss.csv.

    python -m benchmarks.builtin_lm.plot

Training and held-out loss over the tokens seen, as docs/images/builtin_lm_loss.png.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[2]
LOSS = ROOT / "nncift_core" / "builtin" / "lm" / "loss.csv"
FIGURE = ROOT / "docs" / "images" / "builtin_lm_loss.png"


def read_log(path: Path) -> dict[str, list[float]]:
    """Columns of loss.csv by name."""
    with path.open(newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    return {name: [float(r[name]) for r in rows] for name in rows[0]}


def draw(log: dict[str, list[float]], out: Path) -> None:
    """Training and held-out loss [nats a token] over millions of tokens."""
    figure, axes = plt.subplots(figsize=(6.4, 3.8), dpi=110)
    tokens = [t / 1e6 for t in log["tokens"]]
    axes.plot(tokens, log["train_loss"], marker="o", label="training (mean since the last point)")
    axes.plot(tokens, log["heldout_loss"], marker="s", label="held out")
    axes.annotate(f"{log['heldout_loss'][-1]:.3f}", (tokens[-1], log["heldout_loss"][-1]),
                  textcoords="offset points", xytext=(0, 8), ha="right")  # fmt: skip
    axes.set_xlabel("tokens seen (millions)")
    axes.set_ylabel("loss (nats a token)")
    axes.set_title("builtin language model, 1.42 M parameters, one CPU thread")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    plt.close(figure)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loss", type=Path, default=LOSS)
    parser.add_argument("--out", type=Path, default=FIGURE)
    args = parser.parse_args()
    draw(read_log(args.loss), args.out)
    print(args.out)


if __name__ == "__main__":
    main()
