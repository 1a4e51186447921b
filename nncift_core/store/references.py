"""Small frozen references that tasks exchange instead of data: relative path, key, row count."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Reference(BaseModel):
    """Base of the references: frozen, JSON-serialisable, no absolute path inside."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DatasetRef(Reference):
    """One version of a data set: `path` names its version file; `version` identifies rows and order."""

    role: str
    dataset: str
    version: str
    path: str
    rows: int
    new_rows: int = 0
    duplicates: int = 0
    dropped: tuple[str, ...] = ()
    note: str = ""


class DesignRef(Reference):
    """Labelled pairs of the exact matrix, and the rows and columns that they touch.

    kind: "block", "scattered" or "all-targets"; cost: of its labels when they were drawn, in `cost_unit`s;
    block_cost: of the block of u of the rows x u of the columns (both None in designs of an older store, and
    where labels were added to a design); extends: key of the design that labels were added to, or "".
    """

    key: str
    path: str
    rows: int
    columns: int
    reused: bool = False
    kind: Literal["block", "scattered", "all-targets"] = "block"
    pairs: int = 0
    cost: float | None = None
    block_cost: float | None = None
    cost_unit: str = ""
    extends: str = ""


class Refresh(Reference):
    """What a recurring run goes on from, so that every process plans alike.

    previous: id of the earlier run; datasets: its data, whose contents are the known ones; design: key of the
    label design in use, whatever else fits the data; audit_pairs: at most so many exact pairs that touch what
    the earlier run's data lacked, beside the ordinary audit.
    """

    previous: str
    datasets: tuple[DatasetRef, ...]
    design: str
    audit_pairs: int


class EstimatorRef(Reference):
    """A fitted estimator, or a baseline in its place.

    architecture: its name; learned: False for a baseline; chosen: whether it won against other candidates,
    on the part of the audit that is then no measure of it; labels: exact pairs it was fitted on; about:
    what it says of its fit; candidates: who stood for choice, best first; warm_from: key of the earlier
    estimator that this fit began at, or "".
    """

    key: str
    path: str
    architecture: str
    learned: bool
    chosen: bool
    labels: int
    about: dict[str, Any] = {}
    reason: str = ""
    candidates: tuple[dict[str, Any], ...] = ()
    warm_from: str = ""
