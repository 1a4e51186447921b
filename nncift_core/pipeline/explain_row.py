"""The row that `nncift explain` is asked about: how it is named, what it says, what repeats it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nncift_core.errors import UserError
from nncift_core.store.datasets import Dataset
from nncift_core.text import clip, one_line

Int64 = npt.NDArray[np.int64]

TEXT, EXCERPT = 2000, 200
COPIES = 20
_FIELD = "EXAMPLE_ID"


@dataclass(frozen=True, eq=False)
class Found:
    """One row of a stored data set: `index` is its place in the file's order."""

    dataset: Dataset
    index: int

    @property
    def example_id(self) -> int:
        """Its identity."""
        return int(self.dataset.example_ids[self.index])

    @property
    def content(self) -> int:
        """Identity of its text."""
        return int(self.dataset.content_ids[self.index])


def find_row(datasets: Sequence[Dataset], others: Sequence[Dataset], asked: str) -> Found:
    """The row that `asked` names in `datasets`: an example_id, a source_id, or "row:N" (row_number, from 0).

    others: the data sets of the run whose rows are not explained. Raises UserError for what names no row or
    several.
    """
    for look in (_by_example, _by_source, _by_number):
        found = [Found(d, i) for d in datasets for i in look(d, asked)]
        if len(found) > 1:
            ids = ", ".join(str(f.example_id) for f in found[:5])
            more = f" and {len(found) - 5:,} more" if len(found) > 5 else ""
            raise UserError(
                f"{one_line(asked, 80)!r} names {len(found):,} rows", field=_FIELD,
                mend=f"Give one of their example ids: {ids}{more}.",
            )  # fmt: skip
        if found:
            return found[0]
    roles = sorted({d.ref.role for d in others for look in (_by_example, _by_source) if look(d, asked)})
    if roles:
        what = f"{one_line(asked, 80)!r} is a row of the {' and '.join(roles)} data"
        wanted = " or ".join(sorted({d.ref.role for d in datasets}))
        raise UserError(what, field=_FIELD, mend=f"Name a row of the {wanted} data.")
    raise UserError(
        f"no row {one_line(asked, 80)!r} in this run",
        field=_FIELD,
        mend="Give an example_id or a source_id of the view examples, or row:N, its row_number.",
    )


def _by_example(dataset: Dataset, asked: str) -> list[int]:
    if not asked.isascii() or not asked.isdigit() or int(asked) >= 1 << 63:
        return []
    found: list[int] = np.flatnonzero(dataset.example_ids == int(asked)).tolist()
    return found


def _by_source(dataset: Dataset, asked: str) -> list[int]:
    return [i for i, own in enumerate(dataset.rows["source_id"].to_pylist()) if own == asked]


def _by_number(dataset: Dataset, asked: str) -> list[int]:
    name, _, number = asked.partition(":")
    if name != "row" or not number.isascii() or not number.isdigit():
        return []
    return [i for i, n in enumerate(dataset.rows["row_number"].to_pylist()) if n == int(number)]


def described(row: Found, ranks: Mapping[int, int]) -> dict[str, Any]:
    """The row and its copies; ranks: example id -> rank of every chosen row.

    Keys: example_id, dataset, role, row_number (from 0), source_id, source, task, label, prompt and response
    (their first 2,000 characters), copies (rows with the same text, as `named`, at most 20), copies_in_all.
    """
    dataset, text = row.dataset, row.dataset.texts(np.array([row.content]))
    own = dataset.rows.slice(row.index, 1).to_pylist()[0]
    same = np.flatnonzero(dataset.content_ids == row.content)
    same = same[same != row.index]
    names = ("row_number", "source_id", "source", "task", "label")
    return {
        "example_id": row.example_id,
        "dataset": dataset.ref.dataset,
        "role": dataset.ref.role,
        **{name: own[name] for name in names},
        "prompt": clip(text.prompts[0], TEXT),
        "response": clip(text.responses[0], TEXT),
        "copies": named(dataset, same[:COPIES], ranks),
        "copies_in_all": len(same),
    }


def named(
    dataset: Dataset, rows: npt.ArrayLike, ranks: Mapping[int, int] | None = None
) -> list[dict[str, Any]]:
    """Rows of a data set by index, each as example_id, row_number, source_id, text (of the prompt, at most
    200 characters) and, where `ranks` is given, rank (None: not chosen)."""
    index = np.asarray(rows, np.int64)
    if not len(index):
        return []
    texts = dataset.texts(dataset.content_ids[index]).prompts
    about = dataset.rows.select(["example_id", "row_number", "source_id"]).take(index).to_pylist()
    return [
        {
            **one,
            "text": one_line(text, EXCERPT),
            **({} if ranks is None else {"rank": ranks.get(one["example_id"])}),
        }
        for one, text in zip(about, texts, strict=True)
    ]
