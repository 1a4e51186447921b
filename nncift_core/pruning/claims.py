"""How a claim of the paper is judged: the measured effect, its spread over seeds, and the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nncift_core.evaluation.intervals import BETTER, WORSE
from nncift_core.pruning.paired import Point, paired
from nncift_core.scores.catalogue import CATALOGUE

Holds = Literal["yes", "no", "unclear", "not studied"]


@dataclass(frozen=True)
class Finding:
    """A row of the view `findings` without run_id."""

    finding: str
    claim: str
    holds: Holds
    effect: float | None
    spread: float | None
    text: str

    def as_row(self) -> dict[str, Any]:
        """The row."""
        return dict(vars(self))


def not_studied(finding: str, claim: str, lacking: str) -> Finding:
    """Of a claim for which rows are missing; lacking: which."""
    return Finding(finding, claim, "not studied", None, None, f"not studied: {lacking}")


def judged(
    finding: str,
    claim: str,
    per_seed: Mapping[int, Sequence[float]],
    what: str,
    lacking: str,
    sign: float = 1.0,
) -> Finding:
    """Judge a claim by differences of accuracy, seed -> one per setting, averaged in each seed.

    effect: mean over seeds, spread: standard deviation over seeds. Holds "yes" where the 90 % interval over
    seeds (Student's t) lies wholly on the side of `sign`, "no" where it lies on the other, else "unclear", as
    with one seed. what: what the effect is, in words; lacking: what would be needed.
    """
    means = [sum(d) / len(d) for d in per_seed.values() if d]
    found = paired(means)
    if found is None:
        return not_studied(finding, claim, lacking)
    text = f"{what}: {100 * found.mean:+.2f} points"
    if found.spread is None or found.lower is None or found.upper is None:
        return Finding(finding, claim, "unclear", found.mean, None, f"{text} with one seed: no spread")
    settings = max(len(d) for d in per_seed.values())
    text += (
        f" (90 % interval {100 * found.lower:+.2f} to {100 * found.upper:+.2f}; {found.n} seeds, "
        f"{settings} comparison{'' if settings == 1 else 's'} in each)"
    )
    answers: dict[str | None, Holds] = (
        {BETTER: "yes", WORSE: "no"} if sign > 0 else {WORSE: "yes", BETTER: "no"}
    )
    return Finding(finding, claim, answers.get(found.verdict, "unclear"), found.mean, found.spread, text)


def differences(
    ours: Iterable[Point], theirs: Iterable[Point], same: Sequence[str]
) -> dict[int, list[float]]:
    """seed -> accuracy of ours less that of theirs, for every two points with equal seed and equal `same`.

    Shares are compared to nine digits. Where several of `theirs` match, the first counts.
    """
    at: dict[tuple[Any, ...], Point] = {}
    for p in theirs:
        at.setdefault(_place(p, same), p)
    out: dict[int, list[float]] = {}
    for p in ours:
        other = at.get(_place(p, same))
        if other is not None:
            out.setdefault(p["seed"], []).append(p["accuracy"] - other["accuracy"])
    return out


def chosen(points: Iterable[Point], **wanted: Any) -> list[Point]:
    """The points whose fields have the wanted values; a value may be a set of them, or a test."""

    def fits(value: Any, want: Any) -> bool:
        if isinstance(want, Callable):  # type: ignore[arg-type]
            return bool(want(value))
        return value in want if isinstance(want, set | frozenset) else bool(value == want)

    return [p for p in points if all(fits(p[name], want) for name, want in wanted.items())]


def shown_of(name: str) -> frozenset[str]:
    """What points may call the score `name`: its own name, and that of a frozen encoder."""
    return frozenset({name, CATALOGUE[name].frozen} - {""})


def _place(p: Point, same: Sequence[str]) -> tuple[Any, ...]:
    values = [p[name] for name in same]
    return p["seed"], *(round(v, 9) if isinstance(v, float) else v for v in values)
