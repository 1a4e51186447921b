"""The scores by name: which end is hard, what they are made of, which variants they have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Needs = Literal["dynamics", "null", "gradients"]
Mode = Literal["frozen", "full"]


@dataclass(frozen=True)
class Entry:
    """One score.

    title: as reports call it; hard: which end of its values is hard to learn; needs: training dynamics, those
    and a null model, or gradients at checkpoints; variants: the first one is the default, under which rows
    are sampled and studied; frozen: its name where the encoder is frozen, if it is another quantity there.
    """

    title: str
    hard: Literal["high", "low"]
    needs: Needs
    variants: tuple[str, ...] = ("mean",)
    frozen: str = ""


CATALOGUE: dict[str, Entry] = {
    "vog": Entry("VoG", "high", "gradients", ("class", "dataset", "raw"), "vog-embedding"),
    "el2n": Entry("EL2N", "high", "dynamics", ("early", "late")),
    "forgetting": Entry("Forgetting", "high", "dynamics", ("count",)),
    "pvi": Entry("PVI", "low", "null"),
    "tracin": Entry("TracIn", "high", "gradients", ("sum",), "tracin-head"),
    "aum": Entry("AUM", "low", "dynamics"),
    "confidence": Entry("Confidence", "low", "dynamics"),
    "variability": Entry("Variability", "high", "dynamics"),
    "grand": Entry("GraNd", "high", "gradients", ("mean",), "grand-head"),
}


def shown_name(name: str, mode: Mode) -> str:
    """What views and reports call the score `name`: gradient scores of a frozen encoder are taken elsewhere
    and say so."""
    entry = CATALOGUE[name]
    return entry.frozen or name if mode == "frozen" else name
