"""What failed in an audit that goes on without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nncift_core.errors import NnciftError, RunError, UserError
from tasks.progress import say

# Names of sets of rows that a message lists.
_LISTED = 20


class Failures:
    """Methods and stages by name that failed, with their errors; unmeasured: sets of rows without losses."""

    def __init__(self) -> None:
        self.parts: dict[str, NnciftError] = {}
        self.unmeasured: list[str] = []

    @contextmanager
    def noted(self, part: str, then: str, *, left: Callable[[], bool] = lambda: True) -> Iterator[None]:
        """Note that `part` failed, say so and what happens `then`, and go on.

        Wrong input by which nothing is `left` concerns the whole audit: it is raised as it is.
        """
        try:
            yield
        except NnciftError as e:
            if isinstance(e, UserError) and not left():
                raise
            self.parts[part] = e
            say(f"{part}: failed; {then} ({e})")

    def check(self, *, works: bool, anything: bool) -> None:
        """Raise where no method `works`: the UserError if all have one, else RunError unless there is
        `anything` to measure all the same."""
        errors = list(self.parts.values())
        if errors and not works and all(isinstance(e, UserError) for e in errors):
            raise errors[0]
        if not anything:
            raise RunError(f"every method failed: {'; '.join(map(str, errors))}")

    def told(self) -> str:
        """What failed and why, and which sets of rows could not be measured; "" for nothing."""
        found = [f"{part}: {e}" for part, e in self.parts.items()]
        if self.unmeasured:
            rest = len(self.unmeasured) - _LISTED
            more = f" and {rest:,} more" if rest > 0 else ""
            found.append(f"not measured: {', '.join(self.unmeasured[:_LISTED])}{more}")
        return "; ".join(found)
