"""The texts that models are evaluated on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HeldOut:
    """Rows to evaluate on: n prompts, n reference responses. Raises ValueError for unequal numbers."""

    prompts: tuple[str, ...]
    responses: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.prompts) != len(self.responses):
            raise ValueError(f"{len(self.prompts)} prompts but {len(self.responses)} responses")

    def __len__(self) -> int:
        return len(self.prompts)
