"""The section of a config file that only `nncift refresh` reads."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from nncift_core.config_sections import Section


class RefreshConfig(Section):
    """`[refresh]`: when the estimator of the previous run still holds. No other run reads it.

    audit_pairs: exact pairs, per refresh, that touch rows or target rows which the previous run's data
    lacked (those of the ordinary audit count); "auto": 8 % of what a run's labels and ordinary audit cost, at
    least 40, at most 400. level: of each rank test; errors on new pairs that would be so
    large by chance less often than that say that the estimator does not hold. minimum_new: with fewer
    measuring pairs of new rows nothing can be said, and the estimator stays. minimum_labels: at least so many
    labels are added where it does not hold.
    """

    audit_pairs: int | Literal["auto"] = "auto"
    level: float = Field(default=0.01, gt=0, le=0.5)
    minimum_new: int = Field(default=20, ge=20)
    minimum_labels: int = Field(default=20, ge=1)

    @field_validator("audit_pairs", mode="before")
    @classmethod
    def _pairs(cls, value: object) -> object:
        number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        if value != "auto" and not number:
            raise ValueError('must be "auto" or a number of pairs, 0 or more')
        return value

    def audit_of(self, exact_pairs: int) -> int:
        """Audit pairs of a refresh whose previous run had so many labels and audit pairs."""
        if self.audit_pairs != "auto":
            return self.audit_pairs
        return min(max(40, round(0.08 * exact_pairs)), 400)
