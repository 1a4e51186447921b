"""The sections of a config file, one pydantic model each; unknown keys are refused."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from nncift_core.functions import CATALOGUE

TEMPLATE_WITHOUT = "Instruction: {prompt}\nResponse: "
TEMPLATE_WITH = (
    "Instruction: {example_prompt}\nResponse: {example_response}\n\nInstruction: {prompt}\nResponse: "
)


class Section(BaseModel):
    """Base of every section: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
    """

    model: str = "builtin"
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Literal["none", "4bit"] = "none"
    template: Literal["plain", "chat"] = "plain"
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


def _checked_targets(value: object) -> object:
    """Names of the modules that get adapters; raises ValueError for anything else."""
    named = isinstance(value, list) and value and all(isinstance(v, str) and v for v in value)
    if value != "all-linear" and not named:
        raise ValueError('must be "all-linear" or a list of modules such as ["q_proj", "v_proj"]')
    return value


class LessConfig(Section):
    """`[influence.less]`: warm-up training and gradient features of LESS (methods.md 1.3).

    Warm-up: LoRA adapters (rank, alpha, dropout, targets) on a share `warm_up_fraction` of the pool, at
    least `warm_up_rows` rows, for `epochs` passes with a checkpoint after each; learning_rate: peak, after
    the share `warmup` of the steps, then falling linearly to 0. projection: "rademacher" (exact +-1
    matrix, never stored), "count-sketch" (faster, a little noisier) or "none", to `projection_dim`
    numbers; gradients no longer than that are kept whole.
    """

    warm_up_fraction: float = Field(default=0.05, gt=0, le=1)
    warm_up_rows: int = Field(default=64, ge=1)
    epochs: int = Field(default=4, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=2e-5, gt=0)
    warmup: float = Field(default=0.03, ge=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0)
    rank: int = Field(default=128, ge=1)
    alpha: float = Field(default=512.0, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    targets: Literal["all-linear"] | list[str] = Field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"]
    )
    template: str = TEMPLATE_WITHOUT
    projection: Literal["rademacher", "count-sketch", "none"] = "rademacher"
    projection_dim: int = Field(default=8192, ge=1)

    @field_validator("targets", mode="before")
    @classmethod
    def _modules(cls, value: object) -> object:
        return _checked_targets(value)

    @model_validator(mode="after")
    def _placeholders(self) -> LessConfig:
        if "{prompt}" not in self.template or "{example_" in self.template:
            raise ValueError("template needs the placeholder {prompt}, and no other")
        return self


class SelectITConfig(Section):
    """`[influence.selectit]`: self-rated quality (methods.md 1.4).

    prompts: K rating prompts with the placeholders {prompt} and {response}: a list, or the path of a TOML
    file with a list `prompts` (unset: the product's own five); alpha: how much disagreement between them
    costs; models: language models to ask, weighted by their number of parameters (unset: the one of
    `[language_model]`).
    """

    prompts: str | list[str] | None = None
    alpha: float = Field(default=0.2, ge=0)
    models: list[str] = Field(default_factory=list)


class BM25Config(Section):
    """`[influence.bm25]`: k1 saturates repeated words, b weighs a row's length."""

    k1: float = Field(default=1.5, ge=0)
    b: float = Field(default=0.75, ge=0, le=1)


class InfluenceConfig(Section):
    """`[influence]`: which exact function, and how much of the matrix is labelled by it.

    label_fraction: u, the share of rows and of columns in Q1 (1 = everything exact); it sets the budget of
    every design. labels: "block" (u of the rows x u of the columns), "scattered" (pairs that touch as many
    rows and columns as they can), "all-targets" (few rows x every column), all at the cost of that block;
    "auto": what suits the function's costs. block_ratio: rows per column of the block, at the same number
    of pairs (unset: u of each). audit_pairs: scattered exact pairs never used for fitting.
    refine_pairs: exact pairs that may be bought, after the estimates, for rows near the edge of the subset,
    in at most refine_rounds rounds.
    """

    function: str = "delift"
    labels: Literal["auto", "block", "scattered", "all-targets"] = "auto"
    label_fraction: float = Field(default=0.05, gt=0, le=1)
    block_ratio: float | None = Field(default=None, gt=0)
    audit_pairs: int = Field(default=300, ge=0)
    refine_pairs: int = Field(default=0, ge=0)
    refine_rounds: int = Field(default=3, ge=1)
    delift: DeliftConfig = Field(default_factory=DeliftConfig)
    less: LessConfig = Field(default_factory=LessConfig)
    selectit: SelectITConfig = Field(default_factory=SelectITConfig)
    bm25: BM25Config = Field(default_factory=BM25Config)

    @field_validator("function")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in CATALOGUE:
            raise ValueError(f"no such influence function; there are {', '.join(map(repr, CATALOGUE))}")
        return value


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


Baseline = Literal["base", "random", "random-tokens", "longest"]
Metric = Literal["loss", "rouge"]
BASELINES: tuple[Baseline, ...] = ("base", "random", "random-tokens", "longest")
METRICS: tuple[Metric, ...] = ("loss", "rouge")


class FinetuneConfig(Section):
    """`[finetune]`: training the student on the subset; without this section a run stops at selection.

    model, revision, dtype, trust_remote_code: the student (model unset: the one of `[language_model]`,
    with its revision, dtype and trust_remote_code); template: text before a response; epochs: passes
    over the rows; batch_size: rows per optimiser step; batch_tokens: most tokens of a forward pass,
    padding included (changes memory only); learning_rate: peak, reached after the share `warmup` of
    the steps, then falling linearly to 0; rank, alpha, dropout, targets: the LoRA adapters, on all
    linear layers by default.
    """

    method: Literal["lora"] = "lora"
    model: str | None = None
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    trust_remote_code: bool = False
    template: str = TEMPLATE_WITHOUT
    epochs: int = Field(default=3, ge=1)
    batch_size: int = Field(default=16, ge=1)
    batch_tokens: int = Field(default=8192, ge=64)
    learning_rate: float = Field(default=2e-4, gt=0)
    warmup: float = Field(default=0.05, ge=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0)
    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | list[str] = "all-linear"

    @field_validator("targets", mode="before")
    @classmethod
    def _modules(cls, value: object) -> object:
        return _checked_targets(value)

    @model_validator(mode="after")
    def _consistent(self) -> FinetuneConfig:
        if "{prompt}" not in self.template or "{example_" in self.template:
            raise ValueError("template needs the placeholder {prompt}, and no other")
        defaults = {"revision": None, "dtype": "auto", "trust_remote_code": False}
        alone = [name for name, default in defaults.items() if getattr(self, name) != default]
        if self.model is None and alone:
            raise ValueError(f"{alone[0]} belongs to a model: set `model` too")
        return self


class EvaluationConfig(Section):
    """`[evaluation]`: how the fine-tuned models are compared on the rows of `target.test`.

    subsets: what stands beside the selected subset; seeds: fine-tunes per subset (random ones draw
    anew each time); metrics: `loss` (nats a response token) and `rouge` (ROUGE-1 and ROUGE-L of
    greedy answers); limit: first test rows of each data set only; max_new_tokens: length of answers.
    """

    subsets: list[Baseline] = Field(default_factory=lambda: list(BASELINES))
    seeds: int = Field(default=3, ge=1, le=100)
    metrics: list[Metric] = Field(default_factory=lambda: list(METRICS), min_length=1)
    limit: int | None = Field(default=None, ge=1)
    max_new_tokens: int = Field(default=128, ge=1)
    batch_tokens: int = Field(default=8192, ge=64)


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
