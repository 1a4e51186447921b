"""Everything a user can set: one pydantic model per TOML section; unknown keys are refused."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from nncift_core.config_errors import user_error
from nncift_core.errors import UserError
from nncift_core.hashing import digest

TEMPLATE_WITHOUT = "Instruction: {prompt}\nResponse: "
TEMPLATE_WITH = (
    "Instruction: {example_prompt}\nResponse: {example_response}\n\nInstruction: {prompt}\nResponse: "
)


class Section(BaseModel):
    """Base of every section: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Columns = dict[
    Literal["prompt", "response", "input", "id", "source", "task", "split", "label", "messages"], str
]


class RowsConfig(Section):
    """What every data set section shares.

    name: the data set's name in the workspace (default: from `source`); split: keep rows of this
    split; limit: first rows only; columns: prompt, response, input, ... -> name in the file.
    """

    name: str | None = None
    split: str | None = None
    limit: int | None = Field(default=None, ge=1)
    columns: Columns = Field(default_factory=dict)
    on_bad_rows: Literal["error", "drop"] = "error"


class DatasetConfig(RowsConfig):
    """`[pool]` and `selection.existing`: path, glob, folder, hub data set id, or "builtin:NAME"."""

    source: str


class TargetConfig(RowsConfig):
    """`[target]`: the rows to value against; `source = "self"` values the pool against itself.

    `source` may be a list of data sets; `split` and `limit` apply to each. A row's task is its `task`
    column, else the data set's name.
    """

    source: str | list[str] = "self"

    @model_validator(mode="after")
    def _source_not_empty(self) -> TargetConfig:
        if not self.source:
            raise ValueError('needs at least one data set, or "self"')
        return self

    def datasets(self) -> list[DatasetConfig]:
        """One `DatasetConfig` per source; empty for "self"."""
        if self.source == "self":
            return []
        sources = [self.source] if isinstance(self.source, str) else self.source
        shared = self.model_dump(exclude={"source", "name"})
        name = self.name if len(sources) == 1 else None
        return [DatasetConfig(source=s, name=name, **shared) for s in sources]


class EncoderConfig(Section):
    """`[encoder]`: the embedding model. trust_remote_code stays off unless set here."""

    model: str = "builtin"
    revision: str | None = None
    device: str = "auto"
    batch_size: int = Field(default=64, ge=1)
    trust_remote_code: bool = False


class LanguageModelConfig(Section):
    """`[language_model]`: the model whose influence is measured (the teacher)."""

    model: str = "builtin"
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "auto"
    batch_tokens: int = Field(default=8192, ge=64)
    trust_remote_code: bool = False


class DeliftConfig(Section):
    """`[influence.delift]`: the two prompt templates (methods.md 1.1)."""

    template_without: str = TEMPLATE_WITHOUT
    template_with: str = TEMPLATE_WITH

    @model_validator(mode="after")
    def _placeholders(self) -> DeliftConfig:
        wanted = {
            "template_without": ("{prompt}",),
            "template_with": ("{prompt}", "{example_prompt}", "{example_response}"),
        }
        for field, names in wanted.items():
            for name in names:
                if name not in getattr(self, field):
                    raise ValueError(f"{field} lacks the placeholder {name}")
        if "{example_" in self.template_without:
            raise ValueError("template_without names an example's placeholder: only {prompt} is filled there")
        return self


class InfluenceConfig(Section):
    """`[influence]`: which exact function, and how much of the matrix is labelled by it.

    label_fraction: u, the share of rows and of columns in Q1 (1 = everything exact);
    audit_pairs: scattered exact pairs never used for fitting.
    """

    function: Literal["delift", "delift-se"] = "delift"
    labels: Literal["auto", "block"] = "auto"
    label_fraction: float = Field(default=0.05, gt=0, le=1)
    audit_pairs: int = Field(default=300, ge=0)
    delift: DeliftConfig = Field(default_factory=DeliftConfig)


class EstimatorConfig(Section):
    """`[estimator]`: the InfluenceNetwork. `mlp-paper` as published, `mlp` with early stopping.

    refit_growth: an estimator is kept while at most this share of the rows (and of the columns)
    came or went since its labels were drawn; beyond it, labels are drawn and fitted anew.
    """

    architecture: Literal["auto", "mlp", "mlp-paper"] = "auto"
    hidden: int = Field(default=100, ge=1)
    refit_growth: float = Field(default=0.25, ge=0)


class SelectionConfig(Section):
    """`[selection]`: the rule and its budget (design decision 6).

    fraction: v, share of the pool, or count: number of rows; eta: weight of a chosen row's own
    best match in `flmi`; nu: weight of what `existing` covers already in `flcg`.
    """

    rule: Literal["auto", "top-k", "fl", "flmi", "flcg"] = "auto"
    fraction: float | None = Field(default=None, gt=0, le=1)
    count: int | None = Field(default=None, ge=1)
    eta: float = Field(default=1.0, gt=0)
    nu: float = Field(default=1.0, ge=0)
    existing: DatasetConfig | None = None

    @model_validator(mode="after")
    def _budget(self) -> SelectionConfig:
        if self.fraction is not None and self.count is not None:
            raise ValueError("fraction and count exclude each other: keep one")
        if (self.existing is not None) != (self.rule == "flcg"):
            raise ValueError('rule = "flcg" and [selection.existing] go together: set both or neither')
        return self

    def budget(self, rows: int) -> int:
        """Number of rows to pick from `rows` candidates (at least 1)."""
        if self.count is not None:
            return min(self.count, rows)
        return max(1, min(rows, round(self.share * rows)))

    @property
    def share(self) -> float:
        """v: `fraction`, 0.3 when neither it nor `count` is set."""
        return 0.3 if self.fraction is None else self.fraction


class ShardsConfig(Section):
    """`[shards]`: size of new blocks. Another size batches otherwise: values stay within 1e-5."""

    rows: int = Field(default=1024, ge=1)
    columns: int = Field(default=1024, ge=1)
    store_matrix: Literal["all"] = "all"


class ExecutionConfig(Section):
    """`[execution]`: where shards run; never changes a value.

    devices: "auto" (every GPU, else the CPU) or a list like ["cuda:0", "cuda:1"].
    """

    runner: Literal["local"] = "local"
    devices: Literal["auto"] | list[str] = "auto"
    retries: int = Field(default=2, ge=0)

    @field_validator("devices", mode="before")
    @classmethod
    def _devices(cls, value: object) -> object:
        named = isinstance(value, list) and value and all(isinstance(v, str) for v in value)
        if value != "auto" and not named:
            raise ValueError('must be "auto" or a list of devices such as ["cuda:0", "cuda:1"]')
        return value


class Config(Section):
    """The whole job, as read from TOML."""

    seed: int = Field(default=0, ge=0)
    pool: DatasetConfig
    target: TargetConfig = Field(default_factory=TargetConfig)
    encoder: EncoderConfig = Field(default_factory=EncoderConfig)
    language_model: LanguageModelConfig = Field(default_factory=LanguageModelConfig)
    influence: InfluenceConfig = Field(default_factory=InfluenceConfig)
    estimator: EstimatorConfig = Field(default_factory=EstimatorConfig)
    selection: SelectionConfig = Field(default_factory=SelectionConfig)
    shards: ShardsConfig = Field(default_factory=ShardsConfig)
    execution: ExecutionConfig = Field(default_factory=ExecutionConfig)
    base_dir: str = Field(default="", exclude=True, description="folder that relative paths start from")

    def resolve_rule(self) -> Literal["top-k", "fl", "flmi", "flcg"]:
        """The selection rule after `auto` (design decision 6)."""
        if self.selection.rule != "auto":
            return self.selection.rule
        return "fl" if self.target.source == "self" else "flmi"

    def labels(self) -> Literal["block"]:
        """The label design after `auto`."""
        return "block"

    def architecture(self) -> Literal["mlp", "mlp-paper"]:
        """The estimator architecture after `auto`."""
        return "mlp" if self.estimator.architecture == "auto" else self.estimator.architecture


def load_config(path: str | Path) -> Config:
    """Read a TOML file into `Config`; relative paths in it start from the file's folder.

    Raises UserError naming file and field for broken TOML, unknown keys (nearest known suggested)
    and wrong values.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError("no such config file", file=path, mend="Give the path of a TOML config.") from None
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"cannot be read ({e})", file=path, mend="A config is a UTF-8 TOML file.") from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise UserError(f"broken TOML: {e}", file=path, mend="Mend the syntax at that place.") from None
    return parse_config(data, file=path, base_dir=path.resolve().parent)


def parse_config(
    data: dict[str, Any], *, file: str | Path | None = None, base_dir: str | Path | None = None
) -> Config:
    """`Config` from a plain dict; the same checks and messages as `load_config`."""
    if "base_dir" in data:
        raise UserError("unknown key", file=file, field="base_dir", mend="Remove it.")
    try:
        config = Config.model_validate(data)
    except ValidationError as e:
        raise user_error(e, Config, file) from None
    return config.model_copy(update={"base_dir": str(base_dir or Path.cwd())})


def run_key(config: Config, data: dict[str, str], models: dict[str, str]) -> str:
    """`run_id`: hash of what decides the values, after every `auto` (design decision 4).

    data: role and name -> version of the rows; models: "encoder", "function" -> key (a function's
    own settings are in its key). Paths, shard sizes, devices and batch sizes are left out.
    """
    s, i, rule = config.selection, config.influence, config.resolve_rule()
    method = {
        "seed": config.seed,
        "influence": [i.function, config.labels(), i.label_fraction, i.audit_pairs],
        "estimator": [config.architecture(), config.estimator.hidden, config.estimator.refit_growth],
        "rule": [rule, s.eta if rule == "flmi" else None, s.nu if rule == "flcg" else None],
        "budget": s.count if s.count is not None else s.share,
    }
    return digest({"method": method, "data": data, "models": models})[:16]
