"""The section of a config file on training a student on the subset."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from nncift_core.config_sections import TEMPLATE_WITHOUT, Section, checked_targets

CHAT = "chat"
ADAPTER_KEYS = ("rank", "alpha", "dropout", "targets")
# The student itself, which has a key of its own, and what changes memory, place or bookkeeping only.
_NO_VALUE = {
    *("model", "revision", "dtype", "trust_remote_code", "device"),
    *("batch_tokens", "tokens", "packing", "devices", "checkpoint_minutes"),
    *("hosts", "rendezvous", "join_timeout_s"),
}
_ENDPOINT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*:(\d{1,5})")


class FinetuneConfig(Section):
    """`[finetune]`: training the student on the subset; without this section a run stops at selection.

    method: "lora" trains adapters, "qlora" adapters on 4-bit weights (needs a GPU and the extra
    `nncift[gpu]`), "full" every weight. model, revision, dtype, trust_remote_code: the student (model
    unset: the one of `[language_model]`, with its revision, dtype and trust_remote_code). template: text
    before a response, or "chat" for the model's own chat template. epochs: passes over the rows; tokens:
    instead of epochs, train until so many tokens of prompts and responses were seen. batch_size: rows per
    optimiser step; batch_tokens: most tokens of a forward pass, padding included, and packing: rows of
    a step one behind the other in it, not padded (both change memory only). learning_rate: peak,
    reached after the share `warmup` of the steps, then falling linearly to 0. rank, alpha, dropout,
    targets: the adapters, on all linear layers by default. checkpoint_minutes: how often a training notes
    how far it is, to go on from there after a kill (0: never); devices: GPUs of one training
    (the first so many of `execution.devices`; with more than one, models are trained one at a time);
    hosts: machines of one training, each with `devices` GPUs (or its CPU), which meet at `rendezvous`, an
    address of the job's machine that the others reach; join_timeout_s: how long it waits for them.
    """

    method: Literal["lora", "qlora", "full"] = "lora"
    model: str | None = None
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    trust_remote_code: bool = False
    template: str = TEMPLATE_WITHOUT
    epochs: int = Field(default=3, ge=1)
    tokens: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=16, ge=1)
    batch_tokens: int = Field(default=8192, ge=64)
    packing: bool = False
    learning_rate: float = Field(default=2e-4, gt=0)
    warmup: float = Field(default=0.05, ge=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0)
    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | list[str] = "all-linear"
    checkpoint_minutes: float = Field(default=10.0, ge=0)
    devices: int = Field(default=1, ge=1, le=64)
    hosts: int = Field(default=1, ge=1, le=64)
    rendezvous: str | None = None
    join_timeout_s: int = Field(default=600, ge=1)

    @field_validator("targets", mode="before")
    @classmethod
    def _modules(cls, value: object) -> object:
        return checked_targets(value)

    @model_validator(mode="after")
    def _consistent(self) -> FinetuneConfig:
        plain = self.template != CHAT
        if plain and ("{prompt}" not in self.template or "{example_" in self.template):
            raise ValueError('template needs the placeholder {prompt}, and no other; or it is "chat"')
        # A config that went through JSON names every key, so what differs from the default counts as set.
        if self.tokens is not None and self._changed("epochs"):
            raise ValueError("tokens and epochs exclude each other: keep one")
        foreign = [name for name in ADAPTER_KEYS if self._changed(name)]
        if self.method == "full" and foreign:
            raise ValueError(f'{foreign[0]} belongs to adapters, and method = "full" trains none: remove it')
        alone = [name for name in ("revision", "dtype", "trust_remote_code") if self._changed(name)]
        if self.model is None and alone:
            raise ValueError(f"{alone[0]} belongs to a model: set `model` too")
        self._check_meeting()
        return self

    def _check_meeting(self) -> None:
        if self.hosts == 1 and self.rendezvous is not None:
            raise ValueError("rendezvous is where several hosts meet: set `hosts` too, or remove it")
        if self.hosts > 1 and self.rendezvous is None:
            raise ValueError(
                f'{self.hosts} hosts need a place to meet: set rendezvous = "HOST:PORT", an address of the '
                "machine that runs the job"
            )
        if self.rendezvous is None:
            return
        found = _ENDPOINT.fullmatch(self.rendezvous)
        if found is None or not 0 < int(found[1]) < 65536:
            raise ValueError(
                f'rendezvous is "HOST:PORT", a name or IPv4 address and a port, not {self.rendezvous!r}'
            )

    def _changed(self, name: str) -> bool:
        return bool(getattr(self, name) != type(self).model_fields[name].default)

    def values(self) -> dict[str, object]:
        """What decides the trained weights, beside the student, rows and seed, as JSON: what a key is of.

        Keys that came later are left out at their default, so that keys of older trainings stay. With
        dropout, what only makes other batches draws other masks.
        """
        found = self.model_dump(mode="json", exclude=_NO_VALUE)
        later = ("tokens", "packing", "devices", "hosts") if self.dropout else ("tokens",)
        found |= {name: getattr(self, name) for name in later if self._changed(name)}
        if self.dropout:
            found["batch_tokens"] = self.batch_tokens
        if self.method == "full":
            found = {name: value for name, value in found.items() if name not in ADAPTER_KEYS}
        elif isinstance(self.targets, list):
            found["targets"] = sorted(set(self.targets))
        if self.tokens is not None:
            del found["epochs"]
        return found

    @property
    def passes(self) -> int:
        """How often a row counts in the records of work: once per epoch, once under a budget of tokens."""
        return 1 if self.tokens is not None else self.epochs
