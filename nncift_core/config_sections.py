"""The sections of a config file, one pydantic model each: data, models, estimator, selection, shards.

Those of the influence functions are in `config_influence`, of training and comparison in `config_training`,
of `nncift sweep` in `config_sweep`, of where shards run in `config_execution`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

TEMPLATE_WITHOUT = "Instruction: {prompt}\nResponse: "
TEMPLATE_WITH = (
    "Instruction: {example_prompt}\nResponse: {example_response}\n\nInstruction: {prompt}\nResponse: "
)


class Section(BaseModel):
    """Base of every section: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def checked_targets(value: object) -> object:
    """Names of the modules that get LoRA adapters; raises ValueError for anything else."""
    named = isinstance(value, list) and value and all(isinstance(v, str) and v for v in value)
    if value != "all-linear" and not named:
        raise ValueError('must be "all-linear" or a list of modules such as ["q_proj", "v_proj"]')
    return value


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
    column, else the data set's name. `test`: the rows to evaluate on, a split of `source` or data sets
    of their own; all of them, whatever `limit` says.
    """

    source: str | list[str] = "self"
    test: str | list[str] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> TargetConfig:
        if not self.source or self.test == []:
            raise ValueError('needs at least one data set, or "self"')
        if isinstance(self.test, str) and self.test == self.split:
            raise ValueError("test names the split that the pool is valued against: no row is held out")
        return self

    def datasets(self) -> list[DatasetConfig]:
        """One `DatasetConfig` per source; empty for "self"."""
        if self.source == "self":
            return []
        sources = [self.source] if isinstance(self.source, str) else self.source
        shared = self.model_dump(exclude={"source", "name", "test"})
        name = self.name if len(sources) == 1 else None
        return [DatasetConfig(source=s, name=name, **shared) for s in sources]


class EncoderConfig(Section):
    """`[encoder]`: the embedding model. trust_remote_code stays off unless set here.

    pool_prefix, target_prefix: text before every pool row and before every target row, for models that
    are trained with instructions ("passage: " and "query: ", say).
    """

    model: str = "builtin"
    revision: str | None = None
    pool_prefix: str = ""
    target_prefix: str = ""
    device: str = "auto"
    batch_size: int = Field(default=64, ge=1)
    trust_remote_code: bool = False


class LanguageModelConfig(Section):
    """`[language_model]`: the model whose influence is measured (the teacher).

    dtype: of the weights; "auto" is bfloat16 on a GPU that has it, float16 on one that has not, float32
    elsewhere. quantization: "4bit" loads the weights in NF4 (needs a GPU and the extra `nncift[4bit]`).
    template: "chat" wraps prompts in the chat template of the model's tokenizer. batch_tokens: most tokens
    of a forward pass, padding included; halved by itself when the device's memory does not hold them.
    devices: how many of `[execution] devices` hold one copy of the model between them, and make one slot;
    never changes a value.
    """

    model: str = "builtin"
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Literal["none", "4bit"] = "none"
    template: Literal["plain", "chat"] = "plain"
    device: str = "auto"
    devices: int = Field(default=1, ge=1, le=64)
    batch_tokens: int = Field(default=8192, ge=64)
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _devices_of_a_slot(self) -> LanguageModelConfig:
        if self.devices > 1 and self.device != "auto":
            raise ValueError(
                f"devices = {self.devices} takes them from execution.devices, in order: leave out device"
            )
        return self


FeatureGroup = Literal["embedding", "response", "lengths", "hidden", "error", "loss", "bm25", "proxy"]
FEATURE_GROUPS: tuple[FeatureGroup, ...] = (
    "embedding",
    "response",
    "lengths",
    "hidden",
    "error",
    "loss",
    "bm25",
    "proxy",
)
LEARNED = ("mlp", "mlp-paper", "two-tower", "factor", "kernel", "ridge", "knn")
CHEAP = ("constant", "means", "cosine", "bm25", "length", "proxy", "random")


class EstimatorConfig(Section):
    """`[estimator]`: what predicts the pairs that are not computed.

    architecture: "auto" (the best of `candidates` by cross-validation), or one estimator or baseline.
    hidden: width of the networks. features: groups that estimators may read (an empty list is refused).
    on_refusal: what a run does when the audit finds the estimates no good: select by the best cheap
    "baseline", or "stop". refit_growth: an estimator is kept while at most this share of the rows (and of
    the columns) came or went since its labels were drawn; beyond it, labels are drawn and fitted anew.
    """

    architecture: str = "auto"
    candidates: list[str] = Field(
        default_factory=lambda: ["kernel", "two-tower", "factor", "ridge", "knn", "mlp"]
    )
    hidden: int = Field(default=100, ge=1)
    features: list[FeatureGroup] = Field(default_factory=lambda: list(FEATURE_GROUPS), min_length=1)
    on_refusal: Literal["baseline", "stop"] = "baseline"
    refit_growth: float = Field(default=0.25, ge=0)

    @field_validator("architecture")
    @classmethod
    def _known(cls, value: str) -> str:
        if value != "auto" and value not in LEARNED + CHEAP:
            raise ValueError(
                f"no such estimator; there are {', '.join(map(repr, ('auto', *LEARNED, *CHEAP)))}"
            )
        return value

    @field_validator("candidates")
    @classmethod
    def _learned(cls, value: list[str]) -> list[str]:
        unknown = [name for name in value if name not in LEARNED]
        if unknown or not value:
            raise ValueError(f"must name some of {', '.join(map(repr, LEARNED))}")
        return value


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
    mode: Literal["auto", "exact", "sparse", "stochastic", "partitioned"] = "auto"
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
    """`[shards]`: size of new blocks, and what of the matrix is stored.

    Another size batches otherwise: values stay within 1e-5. store_matrix: "all" values; "exact" ones only,
    the others are computed while rows are selected and forgotten; "none": nor are exact ones listed in the
    view `influence` (labels stay stored: they are never computed twice). `nncift query --compute` computes
    left-out values again where they are asked for.
    """

    rows: int = Field(default=1024, ge=1)
    columns: int = Field(default=1024, ge=1)
    store_matrix: Literal["all", "exact", "none"] = "all"
