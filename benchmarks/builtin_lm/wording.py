"""Own-worded instructions around the public rows, and rows made from arithmetic templates."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from nncift_core.config import TEMPLATE_WITHOUT


class Turn(NamedTuple):
    """An instruction, its optional input and the response, before it becomes a row or a text."""

    instruction: str
    input: str
    output: str

    @property
    def prompt(self) -> str:
        """The prompt as the library reads Alpaca rows: instruction, then the input on a new line."""
        return f"{self.instruction}\n{self.input}" if self.input else self.instruction


# "{text}" marks wordings that hold the message themselves; the others get it as `input`.
INTENT_WORDINGS: dict[str, tuple[str, ...]] = {
    "clinc150": (
        "What does the user want? Name the intent.",
        "Classify what the speaker asks a voice assistant to do.",
        'A user says: "{text}" Which intent is this?',
        "Read the request and give its intent in a few words.",
        "Name the skill that an assistant needs for this request.",
        'Intent of "{text}":',
    ),
    "banking77": (
        "What does the customer want? Name the reason for contact.",
        "Sort this message to a bank's support desk into its topic.",
        'A bank customer writes: "{text}" What is this about?',
        "Read the customer's message and name the issue.",
        "Give the support category of this message.",
        'Topic of the customer message "{text}":',
    ),
}

SNLI_WORDINGS: tuple[str, ...] = (
    "Premise: {p}\nHypothesis: {h}\nDoes the premise entail the hypothesis, contradict it, or neither?",
    'Suppose it is true that "{p}" What is the relation to "{h}"?',
    "Compare the two sentences and name their relation.\nFirst: {p}\nSecond: {h}",
)


def label_words(label: str) -> str:
    """A data set's label in words: `card_arrival` -> "card arrival", `oos` -> "out of scope"."""
    return "out of scope" if label == "oos" else label.replace("_", " ").rstrip("?").lower()


def intent_turn(source: str, text: str, label: str, rng: random.Random) -> Turn:
    """A message and its label under one of the source's wordings."""
    wording = rng.choice(INTENT_WORDINGS[source])
    if "{text}" in wording:
        return Turn(wording.replace("{text}", text), "", label_words(label))
    return Turn(wording, text, label_words(label))


def snli_turn(premise: str, hypothesis: str, label: str, rng: random.Random) -> Turn:
    """A sentence pair and its relation under one of the wordings."""
    wording = rng.choice(SNLI_WORDINGS)
    return Turn(wording.replace("{p}", premise).replace("{h}", hypothesis), "", label)


def single(turn: Turn) -> str:
    """The turn under the default DELIFT template without an example."""
    return TEMPLATE_WITHOUT.replace("{prompt}", turn.prompt) + turn.output


def chain(turns: list[Turn]) -> str:
    """Several turns in one text, as an in-context example precedes a target in DELIFT."""
    return "\n\n".join(single(t) for t in turns)


_NAMES = ("Mira", "Jonas", "Priya", "Tom", "Aiko", "Lena", "Omar", "Sofia", "Ben", "Chidi", "Nora", "Pavel")
_THINGS = (
    "apples",
    "pencils",
    "stickers",
    "marbles",
    "books",
    "cups",
    "buttons",
    "stamps",
    "shells",
    "cards",
)


def _shopping(r: random.Random) -> Turn:
    name, thing, n, price = r.choice(_NAMES), r.choice(_THINGS), r.randint(2, 12), r.randint(2, 9)
    paid = n * price + r.randint(1, 30)
    return Turn(
        f"{name} buys {n} {thing} at ${price} each and pays with ${paid}. How much change is due?",
        "",
        f"The {thing} cost {n} * {price} = ${n * price}.\n"
        f"The change is {paid} - {n * price} = ${paid - n * price}.\n#### {paid - n * price}",
    )


def _sharing(r: random.Random) -> Turn:
    a, b = r.sample(_NAMES, 2)
    thing, n, given, found = r.choice(_THINGS), r.randint(20, 90), r.randint(3, 19), r.randint(2, 30)
    return Turn(
        f"{a} has {n} {thing}, gives {given} of them to {b} and then finds {found} more. "
        f"How many {thing} does {a} have now?",
        "",
        f"After giving {given} away, {a} has {n} - {given} = {n - given} {thing}.\n"
        f"After finding {found} more, {a} has {n - given} + {found} = {n - given + found}.\n"
        f"#### {n - given + found}",
    )


def _journey(r: random.Random) -> Turn:
    name, speed, hours, rest = r.choice(_NAMES), r.randint(4, 80), r.randint(2, 6), r.randint(5, 60)
    first = hours * speed
    return Turn(
        f"{name} travels {hours} hours at {speed} km per hour and then another {rest} km. "
        "What is the whole distance?",
        "",
        f"In {hours} hours that is {hours} * {speed} = {first} km.\n"
        f"Altogether it is {first} + {rest} = {first + rest} km.\n#### {first + rest}",
    )


def _discount(r: random.Random) -> Turn:
    price, percent = r.randint(2, 20) * 20, r.choice((5, 10, 15, 20, 25, 30, 40, 50))
    off = price * percent // 100
    return Turn(
        f"A coat costs ${price} and is sold {percent}% cheaper. What is the new price?",
        "",
        f"The discount is {price} * {percent} / 100 = ${off}.\n"
        f"The new price is {price} - {off} = ${price - off}.\n#### {price - off}",
    )


def _sorting(r: random.Random) -> Turn:
    numbers = r.sample(range(1, 100), r.randint(4, 6))
    return Turn(
        "Sort these numbers from small to large.",
        ", ".join(map(str, numbers)),
        ", ".join(map(str, sorted(numbers))),
    )


def _units(r: random.Random) -> Turn:
    big, small, factor = r.choice(
        (
            ("hours", "minutes", 60),
            ("metres", "centimetres", 100),
            ("kilograms", "grams", 1000),
            ("weeks", "days", 7),
            ("dozen eggs", "single eggs", 12),
            ("kilometres", "metres", 1000),
        )
    )
    n = r.randint(2, 60)
    return Turn(f"Convert {n} {big} to {small}.", "", f"{n} {big} are {n} * {factor} = {n * factor} {small}.")


def _extract(r: random.Random) -> Turn:
    name, day, hour = (
        r.choice(_NAMES),
        r.choice(("Monday", "Tuesday", "Thursday", "Friday")),
        r.randint(8, 17),
    )
    room = r.randint(1, 40)
    what = r.choice(("budget review", "design meeting", "training", "interview", "stand-up"))
    return Turn(
        "Take the person, day, time and room out of the note.",
        f"Reminder: {name} leads the {what} on {day} at {hour}:00 in room {room}.",
        f"Person: {name}\nDay: {day}\nTime: {hour}:00\nRoom: {room}",
    )


TEMPLATES: tuple[Callable[[random.Random], Turn], ...] = (
    _shopping, _sharing, _journey, _discount, _sorting, _units, _extract,
)  # fmt: skip


def templated(count: int, rng: random.Random) -> list[tuple[str, Turn]]:
    """`count` distinct (template name, turn) pairs, the templates taken in turn."""
    found: dict[str, tuple[str, Turn]] = {}
    k = 0
    while len(found) < count:
        make = TEMPLATES[k % len(TEMPLATES)]
        turn = make(rng)
        found.setdefault(turn.prompt, (make.__name__.strip("_"), turn))
        k += 1
    return list(found.values())
