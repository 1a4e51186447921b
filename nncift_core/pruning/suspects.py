"""Which labels look wrong: rows ranked for a person to look at, and the file in which they are relabelled."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nncift_core.estimator.metrics import average_ranks, top_membership

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

HARDEST = 0.05
CSV_COLUMNS = (
    "rank",
    "id",
    "text",
    "text_pair",
    "given_label",
    "predicted_label",
    "new_label",
    "probability",
    "consensus",
    "agreement",
    "source_row",
)
# A spreadsheet takes a cell that begins so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def rank_suspects(
    difficulty: Mapping[str, npt.NDArray[Any]],
    given: Int64,
    predicted: Int64,
    probability: npt.NDArray[Any],
    limit: int,
) -> list[dict[str, Any]]:
    """The `limit` most suspicious rows, as rows of the view `suspects` with `index` in place of train_id.

    difficulty: shown name of a score -> [N], larger is harder; given, predicted [N]: class numbers, the
    predicted one by majority over runs at the last epoch; probability [N]: exp of the mean log-probability of
    the given class. consensus: mean over the scores of the row's rank from the easiest over N (tied rows
    share a rank), 1 = hardest; agreement: share of the scores that have the row among their hardest 5 %, a
    score whose edge falls among tied rows counting for each with the part of them that has room.

    Order: rows whose predicted class is not the given one, then the others; inside, the least probable
    given class first; then consensus; then index. Not by consensus first, which loses by its weakest member:
    beside probability alone (`confidence` in `benchmarks/prune.py DATA noise`) some scores hardly find wrong
    labels. It stays beside each row as a second opinion.

    Raises ValueError for no scores, lengths that differ, values that are no numbers, or a negative limit.
    """
    n = len(given)
    arrays = {**difficulty, "predicted": predicted, "probability": probability}
    for name, x in arrays.items():
        if x.shape != (n,) or np.isnan(np.asarray(x, np.float64)).any():
            raise ValueError(f"{name} is {list(x.shape)} or has values that are no numbers; {n} rows wanted")
    if not difficulty or limit < 0:
        raise ValueError(f"need a score and a limit of 0 or more, got {len(difficulty)} and {limit}")
    if n == 0:
        return []
    values = [np.asarray(v, np.float64) for v in difficulty.values()]
    k = max(1, round(HARDEST * n))
    consensus: Float64 = np.mean([average_ranks(v) / n for v in values], axis=0)
    agreement: Float64 = np.mean([top_membership(v, k) for v in values], axis=0)
    order = np.lexsort((np.arange(n), -consensus, probability, predicted == given))
    return [
        {
            "rank": rank,
            "index": int(i),
            "given": int(given[i]),
            "predicted": int(predicted[i]),
            "probability": float(probability[i]),
            "consensus": float(consensus[i]),
            "agreement": float(agreement[i]),
        }
        for rank, i in enumerate(order[:limit], start=1)
    ]


def suspects_csv(
    rows: Sequence[Mapping[str, Any]],
    *,
    ids: Sequence[str | int],
    texts: Sequence[str],
    text_pairs: Sequence[str] | None,
    classes: Sequence[str],
    source_rows: Sequence[int],
) -> str:
    """A CSV of suspects for relabelling: columns `CSV_COLUMNS`, `new_label` empty for a person to fill.

    rows: of `rank_suspects`; all else by `index`: the user's id, the text, the second text of a pair (None:
    single texts), names of the classes by number, and the row number in the source. Text that begins with
    = + - @, a tab or a line break gets an apostrophe before it, so that no spreadsheet takes a cell for a
    formula: whoever reads the file by program takes one leading apostrophe off such a cell.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in rows:
        i = row["index"]
        cells = (
            row["rank"],
            ids[i],
            texts[i],
            text_pairs[i] if text_pairs is not None else "",
            classes[row["given"]],
            classes[row["predicted"]],
            "",
            f"{row['probability']:.6g}",
            f"{row['consensus']:.4f}",
            f"{row['agreement']:.3f}",
            source_rows[i],
        )
        writer.writerow([_safe(cell) for cell in cells])
    return out.getvalue()


def _safe(cell: str | int) -> str:
    text = str(cell)
    return f"'{text}" if isinstance(cell, str) and text.startswith(_FORMULA) else text
