"""Everything a user can set: the sections of a TOML file as one checked object, and its identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from nncift_core.config_audit import AuditConfig
from nncift_core.config_compare import CompareConfig
from nncift_core.config_errors import user_error
from nncift_core.config_evaluation import EvaluationConfig
from nncift_core.config_execution import ExecutionConfig
from nncift_core.config_influence import (
    BM25Config,
    DeliftConfig,
    InfluenceConfig,
    LessConfig,
    SelectITConfig,
)
from nncift_core.config_refresh import RefreshConfig
from nncift_core.config_sections import (
    TEMPLATE_WITH,
    TEMPLATE_WITHOUT,
    DatasetConfig,
    EncoderConfig,
    EstimatorConfig,
    LanguageModelConfig,
    RowsConfig,
    Section,
    SelectionConfig,
    ShardsConfig,
    TargetConfig,
)
from nncift_core.config_sweep import SweepConfig
from nncift_core.config_toml import read_toml
from nncift_core.config_training import FinetuneConfig
from nncift_core.devices import default_dtype
from nncift_core.errors import UserError
from nncift_core.functions import CATALOGUE
from nncift_core.hashing import digest

__all__ = [
    "AuditConfig",
    "BM25Config",
    "CompareConfig",
    "Config",
    "DatasetConfig",
    "DeliftConfig",
    "EncoderConfig",
    "EstimatorConfig",
    "EvaluationConfig",
    "ExecutionConfig",
    "FinetuneConfig",
    "InfluenceConfig",
    "LanguageModelConfig",
    "LessConfig",
    "RefreshConfig",
    "RowsConfig",
    "Section",
    "SelectITConfig",
    "SelectionConfig",
    "ShardsConfig",
    "SweepConfig",
    "TEMPLATE_WITH",
    "TEMPLATE_WITHOUT",
    "TargetConfig",
    "load_config",
    "parse_config",
    "run_key",
    "series_key",
    "settled",
]


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
    finetune: FinetuneConfig | None = None
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    compare: CompareConfig = Field(default_factory=CompareConfig)
    audit: AuditConfig = Field(default_factory=AuditConfig)
    sweep: SweepConfig = Field(default_factory=SweepConfig)
    refresh: RefreshConfig = Field(default_factory=RefreshConfig)
    base_dir: str = Field(default="", exclude=True, description="folder that relative paths start from")

    @model_validator(mode="after")
    def _one_value_per_row(self) -> Config:
        if self.pointwise and self.selection.rule not in ("auto", "top-k"):
            raise ValueError(
                f'{self.influence.function} gives one value per pool row: selection.rule must be "top-k"'
            )
        return self

    @model_validator(mode="after")
    def _mode_of_facility_location(self) -> Config:
        if self.selection.mode != "auto" and self.resolve_rule() == "top-k":
            raise ValueError(
                f'selection.mode = "{self.selection.mode}" is of facility location, but the rule is "top-k": '
                "leave it out, or set selection.rule"
            )
        return self

    @model_validator(mode="after")
    def _one_template(self) -> Config:
        i = self.influence
        own = i.delift != DeliftConfig() or i.less.template != TEMPLATE_WITHOUT
        if self.language_model.template == "chat" and own:
            raise ValueError(
                'language_model.template = "chat" takes the place of the templates in [influence]: keep one'
            )
        return self

    @model_validator(mode="after")
    def _gpus_of_a_slot(self) -> Config:
        wanted, ray = self.language_model.devices, self.execution.cluster
        if wanted > 1 and ray.num_gpus != "auto" and ray.num_gpus < wanted:
            raise ValueError(
                f"execution.ray.num_gpus = {ray.num_gpus:g} is less than language_model.devices = {wanted}: "
                "leave num_gpus out, or raise it"
            )
        return self

    @property
    def pointwise(self) -> bool:
        """Whether the influence function values pool rows by themselves, without a target."""
        return CATALOGUE[self.influence.function].kind == "pointwise"

    def resolve_rule(self) -> Literal["top-k", "fl", "flmi", "flcg"]:
        """The selection rule after `auto` (design decision 6)."""
        if self.selection.rule != "auto":
            return self.selection.rule
        if CATALOGUE[self.influence.function].rule == "top-k":
            return "top-k"
        return "fl" if self.target.source == "self" else "flmi"

    @property
    def subject(self) -> str:
        """What its runs are about, as their tags say."""
        return self.influence.function

    @property
    def named_devices(self) -> list[str]:
        """The devices that sections name for their models; "auto" is the slot's."""
        named = [self.encoder.device, self.language_model.device]
        return [*named, self.finetune.device] if self.finetune is not None else named

    def training_seeds(self) -> list[int]:
        """Seeds of draws and training, one model per subset and seed; one without rows to compare on."""
        return [self.seed + s for s in range(self.evaluation.seeds if self.target.test else 1)]

    def labels(self) -> Literal["auto", "block", "scattered", "all-targets"]:
        """The label design asked for; what "auto" means follows from the function's costs and the data."""
        return self.influence.labels

    @property
    def asks_to_learn(self) -> bool:
        """Whether labels or an estimator are named, so that even values that cost nothing are learned."""
        return self.influence.labels != "auto" or self.estimator.architecture != "auto"


def load_config(path: str | Path) -> Config:
    """Read a TOML file into `Config`; relative paths in it start from the file's folder.

    Raises UserError naming file and field for broken TOML, unknown keys (nearest known suggested)
    and wrong values.
    """
    path = Path(path)
    return parse_config(read_toml(path), file=path, base_dir=path.resolve().parent)


def parse_config(
    data: dict[str, Any], *, file: str | Path | None = None, base_dir: str | Path | None = None
) -> Config:
    """`Config` from a plain dict; the same checks and messages as `load_config`."""
    if "base_dir" in data:
        raise UserError("unknown key", file=file, field="base_dir", mend="Remove it.")
    if "data" in data and "pool" not in data:
        raise UserError(
            "this is the config of a prune job",
            file=file,
            field="data",
            mend="Run it with `nncift prune`; a valuation wants [pool].",
        )
    if "evaluation" in data and "finetune" not in data:
        raise UserError(
            "there is no model to evaluate",
            file=file,
            field="evaluation",
            mend="Add [finetune], or remove the section.",
        )
    try:
        config = Config.model_validate(data)
    except ValidationError as e:
        raise user_error(e, Config, file) from None
    return settled(config.model_copy(update={"base_dir": str(base_dir or Path.cwd())}))


def settled(config: Config) -> Config:
    """`config` with every dtype "auto" replaced by what its devices are given: keys need to know it.

    `load_config` and `parse_config` do it; a `Config` made otherwise still needs it.
    """
    slots = config.execution.devices
    found: dict[str, Section] = {}
    for name in ("language_model", "finetune"):
        section = getattr(config, name)
        if section is not None and section.dtype == "auto" and section.model is not None:
            where = slots if section.device == "auto" else [section.device]
            found[name] = section.model_copy(update={"dtype": default_dtype(where)})
    return config.model_copy(update=found)


def _estimator_identity(config: Config) -> list[Any]:
    """What of `[estimator]` decides values; who stands for choice matters only where there is one."""
    e = config.estimator
    stand = sorted(e.candidates) if e.architecture == "auto" else []
    return [e.architecture, stand, e.hidden, sorted(e.features), e.on_refusal, e.refit_growth]


def run_key(config: Config, data: dict[str, str], models: dict[str, str]) -> str:
    """`run_id`: hash of what decides the values, after every `auto` (design decision 4).

    data: role and name -> version of the rows; models: "encoder", "function" and, where one is trained,
    "student" -> key (a function's own settings are in its key). Paths, shard sizes, devices, batch sizes,
    `[sweep]` and `[refresh]` are left out.
    """
    s, i, rule = config.selection, config.influence, config.resolve_rule()
    method: dict[str, Any] = {
        "seed": config.seed,
        "influence": [i.function, config.labels(), i.label_fraction, i.block_ratio, i.audit_pairs],
        "refine": [i.refine_pairs, i.refine_rounds] if i.refine_pairs else None,
        "estimator": _estimator_identity(config),
        "rule": [rule, s.eta if rule == "flmi" else None, s.nu if rule == "flcg" else None, s.mode],
        "budget": s.count if s.count is not None else s.share,
    }
    if config.finetune is not None:
        e = config.evaluation
        tuned = config.finetune.values()
        method["batch_tokens"] = tuned.pop("batch_tokens", None)
        own = {"dtype": config.finetune.dtype, "trust_remote_code": config.finetune.trust_remote_code}
        method["finetune"] = tuned | own
        method["evaluation"] = [
            sorted(e.subsets),
            config.training_seeds(),
            sorted(e.metrics),
            e.max_new_tokens,
            *e.identity(config.base_dir),
        ]
    return digest({"method": method, "data": data, "models": models})[:16]


def series_key(config: Config, data: dict[str, str], models: dict[str, str]) -> str:
    """What runs of one recurring job share: `run_key` over the names of its data, whatever their versions."""
    return run_key(config, dict.fromkeys(data, ""), models)
