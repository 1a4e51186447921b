"""Small frozen references that tasks exchange instead of data: relative path, key, row count."""

from __future__ import annotations

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
    """Labelled rows and columns of the exact matrix."""

    key: str
    path: str
    rows: int
    columns: int
    reused: bool = False


class EstimatorRef(Reference):
    """A fitted estimator and how its fit went."""

    key: str
    path: str
    architecture: str
    labels: int
    epochs: int
    train_mse: float
    validation_mse: float | None = None
