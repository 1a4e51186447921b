"""The section of a config file that only `nncift refresh` reads."""

from __future__ import annotations

from pydantic import Field

from nncift_core.config_sections import Section


class RefreshConfig(Section):
    """`[refresh]`: when the estimator of the previous run still holds. No other run reads it.

    audit_pairs: exact pairs, per refresh, that touch rows or target rows which the previous run's data
    lacked (those of the ordinary audit count). level: of each rank test; errors on new pairs that would be so
    large by chance less often than that say that the estimator does not hold. minimum_new: with fewer
    measuring pairs of new rows nothing can be said, and the estimator stays. minimum_labels: at least so many
    labels are added where it does not hold.
    """

    audit_pairs: int = Field(default=40, ge=0)
    level: float = Field(default=0.01, gt=0, le=0.5)
    minimum_new: int = Field(default=20, ge=20)
    minimum_labels: int = Field(default=20, ge=1)
