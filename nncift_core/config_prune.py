"""The config file of `nncift prune`: labelled data, how classifiers are trained, scores, studies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from nncift_core.config_errors import user_error
from nncift_core.config_execution import ExecutionConfig
from nncift_core.config_sections import EncoderConfig, Section
from nncift_core.config_toml import read_toml
from nncift_core.errors import UserError
from nncift_core.scores.catalogue import CATALOGUE

Share = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(gt=0, lt=1)]
ScoreName = Literal["vog", "el2n", "forgetting", "pvi", "tracin", "aum", "confidence", "variability", "grand"]
End = Literal["easy", "hard"]
Noise = Literal["shuffle", "uniform", "confusable"]
Study = Literal["curve", "noise", "imbalance"]
# What is studied and drawn where the config does not say.
STUDIED: tuple[ScoreName, ...] = ("el2n", "aum", "forgetting", "pvi", "vog")
DRAWN: tuple[ScoreName, ...] = ("forgetting", "vog")
LabelledColumns = dict[Literal["text", "text_pair", "label", "id", "group", "split"], str]


class LabelledRows(Section):
    """One set of labelled rows, as it is read: a source, and which of its rows."""

    source: str
    name: str | None = None
    split: str | None = None
    limit: int | None = Field(default=None, ge=1)
    columns: LabelledColumns = Field(default_factory=dict)
    unlabelled: list[str] = Field(default_factory=list)
    on_bad_rows: Literal["error", "drop"] = "error"


class LabelledConfig(Section):
    """`[data]`: labelled text, single (`text`) or in pairs (`text` and `text_pair`).

    source: path, glob, folder or hub id of the rows to prune; split: of it; test: the rows that every subset
    is evaluated on, a split of `source` or a source of their own; new: labelled rows of a source of their own
    that only get learned scores. columns: role -> name in the file; `group` names a column such as domain,
    annotator or source, so that harm to a group is seen. unlabelled: labels which say that a row has none,
    such as "-1": it is a bad row then. limit: first rows to prune, limit_test: to evaluate.
    """

    source: str
    test: str
    name: str | None = None
    split: str | None = None
    new: str | None = None
    columns: LabelledColumns = Field(default_factory=dict)
    unlabelled: list[str] = Field(default_factory=list)
    limit: int | None = Field(default=None, ge=2)
    limit_test: int | None = Field(default=None, ge=1)
    on_bad_rows: Literal["error", "drop"] = "error"

    @model_validator(mode="after")
    def _held_out(self) -> Self:
        if self.test == self.split:
            raise ValueError("test names the split that is trained on: no row is held out")
        if self.new is not None and self.new == self.split:
            raise ValueError("new names the split that is trained on: the scores of its rows are measured")
        return self


class TrainingConfig(Section):
    """`[training]`: how every classifier is trained.

    mode: "frozen" trains a head on cached embeddings, "full" the encoder too; head: "paper" is three linear
    layers with ReLU and dropout between them, "linear" a single one; hidden: width of the paper's head;
    learning_rate: of the head, encoder_rate: of the encoder (full mode); warm-up over the first `warmup` of
    the steps, then a linear fall; max_tokens: longest text read in full mode. checkpoints: how many, evenly
    over the run; log_every: steps between two looks at all rows in the first `log_epochs` epochs, and at the
    end of every epoch; keep_logits: keep whole logits at epoch ends beside what scores need of them.
    """

    mode: Literal["frozen", "full"] = "frozen"
    head: Literal["paper", "linear"] = "paper"
    hidden: int = Field(default=256, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=128, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    encoder_rate: float = Field(default=1e-4, gt=0)
    warmup: float = Field(default=0.0, ge=0, lt=1)
    max_tokens: int = Field(default=128, ge=8)
    checkpoints: int = Field(default=10, ge=2)
    log_every: int = Field(default=50, ge=1)
    log_epochs: float = Field(default=2.0, ge=0)
    keep_logits: bool = False


class ScoresConfig(Section):
    """`[scores]`: which scores, over how many runs.

    runs: trainings whose dynamics are averaged (gradient scores take the first `gradient_runs` of them);
    el2n_epoch, forgetting_epochs, pvi_epochs: how early a score is read; learn: predict every score from
    embeddings too, so that new rows get one without any training.
    """

    names: list[ScoreName] = Field(default_factory=lambda: list(CATALOGUE), min_length=1)  # type: ignore[arg-type]
    runs: int = Field(default=3, ge=1, le=100)
    gradient_runs: int = Field(default=1, ge=1, le=100)
    el2n_epoch: int = Field(default=2, ge=1)
    forgetting_epochs: float = Field(default=2.0, gt=0)
    pvi_epochs: int = Field(default=2, ge=1)
    learn: bool = True

    @field_validator("names")
    @classmethod
    def _once(cls, value: list[str]) -> list[str]:
        return _without_doubles(value)


class NoiseConfig(Section):
    """`[noise]`: labels that the noise study changes on purpose.

    kinds: "shuffle" permutes the labels of a share of the rows among themselves (some stay right), "uniform"
    flips each to another class at random, "confusable" to the nearest class by mean embedding; rates: that
    share; prune: shares dropped from either end after scoring the noisy rows.
    """

    kinds: list[Noise] = Field(default_factory=lambda: ["uniform", "confusable"], min_length=1)  # type: ignore[arg-type]
    rates: list[Rate] = Field(default_factory=lambda: [0.1], min_length=1)
    prune: list[Share] = Field(default_factory=lambda: [0.1, 0.2], min_length=1)
    ends: list[End] = Field(default_factory=lambda: ["easy", "hard"], min_length=1)  # type: ignore[arg-type]

    @field_validator("kinds", "rates", "prune", "ends")
    @classmethod
    def _once(cls, value: list[Any]) -> list[Any]:
        return _without_doubles(value)


class StudyConfig(Section):
    """`[study]`: which subsets are trained on.

    studies: "curve" prunes each of `scores` from each of `ends` by each of `prune` (shares dropped), "noise"
    does it under planted label noise, "imbalance" compares samplings class by class. seeds: trainings per
    point. variants: also prune by EL2N read late and by VoG normalised over the data set. probabilistic:
    scores that are also sampled without replacement with probabilities "softmax" and "linear" (of eps to 1).
    floor: rows of every class that no pruning goes below.
    """

    studies: list[Study] = Field(default_factory=lambda: ["curve"], min_length=1)  # type: ignore[arg-type]
    scores: list[ScoreName] | None = Field(default=None, min_length=1)
    ends: list[End] = Field(default_factory=lambda: ["easy", "hard"], min_length=1)  # type: ignore[arg-type]
    prune: list[Share] = Field(default_factory=lambda: [0.1, 0.3, 0.5], min_length=1)
    seeds: int = Field(default=3, ge=1, le=100)
    variants: bool = True
    probabilistic: list[ScoreName] | None = None
    floor: int = Field(default=1, ge=0)
    eps: float = Field(default=0.1, gt=0, lt=1)

    @field_validator("studies", "scores", "ends", "prune", "probabilistic")
    @classmethod
    def _once(cls, value: list[Any] | None) -> list[Any] | None:
        return None if value is None else _without_doubles(value)


class SubsetConfig(Section):
    """`[subset]`: the rows that are written out. Without it, those that the run recommends, if it does.

    score: by which the rows are pruned, in its first variant; pruned_end: which end goes; prune: the share.
    """

    score: ScoreName
    pruned_end: End
    prune: Share


class PruneConfig(Section):
    """A whole job of `nncift prune`, as read from TOML."""

    seed: int = Field(default=0, ge=0)
    data: LabelledConfig
    encoder: EncoderConfig = Field(default_factory=EncoderConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    scores: ScoresConfig = Field(default_factory=ScoresConfig)
    study: StudyConfig = Field(default_factory=StudyConfig)
    noise: NoiseConfig = Field(default_factory=NoiseConfig)
    subset: SubsetConfig | None = None
    execution: ExecutionConfig = Field(default_factory=ExecutionConfig)
    base_dir: str = Field(default="", exclude=True, description="folder that relative paths start from")

    @model_validator(mode="after")
    def _scores_that_exist(self) -> Self:
        asked = {*(self.study.scores or ()), *(self.study.probabilistic or ())}
        asked |= {self.subset.score} if self.subset is not None else set()
        lacking = sorted(asked - set(self.scores.names))
        if lacking:
            raise ValueError(f"{lacking[0]!r} is asked for, but scores.names lacks it: add it there")
        t = self.training
        if t.mode == "frozen" and t.head == "linear" and "vog" in self.scores.names:
            raise ValueError(
                "the gradient of a linear head on a frozen encoder is the same for all rows of a class, so "
                'that VoG says nothing: leave "vog" out of scores.names, or set training.head = "paper"'
            )
        for name, field in (
            ("el2n", "el2n_epoch"),
            ("forgetting", "forgetting_epochs"),
            ("pvi", "pvi_epochs"),
        ):
            if name in self.scores.names and getattr(self.scores, field) > t.epochs:
                raise ValueError(
                    f"scores.{field} = {getattr(self.scores, field)} is beyond training.epochs = {t.epochs}: "
                    f"lower it, train longer, or leave {name!r} out of scores.names"
                )
        if self.scores.gradient_runs > self.scores.runs:
            raise ValueError("scores.gradient_runs is more than scores.runs: raise runs too")
        return self

    @property
    def studied(self) -> list[ScoreName]:
        """The scores whose subsets are trained on: `study.scores`, else those of `STUDIED` that are computed,
        else the first of the catalogue that is: `scores.names` has no order."""
        found = self.study.scores or [name for name in STUDIED if name in self.scores.names]
        return found or sorted(self.scores.names, key=list(CATALOGUE).index)[:1]

    @property
    def drawn(self) -> list[ScoreName]:
        """The scores that are also sampled with probabilities: `study.probabilistic`, else those of `DRAWN`
        that are computed."""
        if self.study.probabilistic is not None:
            return self.study.probabilistic
        return [name for name in DRAWN if name in self.scores.names]

    @property
    def subject(self) -> str:
        """What its runs are about, as their tags say."""
        return "prune"

    @property
    def named_devices(self) -> list[str]:
        """The devices that sections name for their models; "auto" is the slot's."""
        return [self.encoder.device]


def _without_doubles(value: list[Any]) -> list[Any]:
    twice = [v for v in value if value.count(v) > 1]
    if twice:
        raise ValueError(f"names {twice[0]} twice")
    return value


def load_prune_config(path: str | Path) -> PruneConfig:
    """Read a TOML file into `PruneConfig`; relative paths in it start from the file's folder.

    Raises UserError naming file and field for broken TOML, unknown keys and wrong values.
    """
    path = Path(path)
    return parse_prune_config(read_toml(path), file=path, base_dir=path.resolve().parent)


def parse_prune_config(
    data: dict[str, Any], *, file: str | Path | None = None, base_dir: str | Path | None = None
) -> PruneConfig:
    """`PruneConfig` from a plain dict; the same checks and messages as `load_prune_config`."""
    if "base_dir" in data:
        raise UserError("unknown key", file=file, field="base_dir", mend="Remove it.")
    if "pool" in data and "data" not in data:
        raise UserError(
            "this is the config of a valuation",
            file=file,
            field="pool",
            mend="Run it with `nncift run`; `nncift prune` wants [data].",
        )
    try:
        config = PruneConfig.model_validate(data)
    except ValidationError as e:
        raise user_error(e, PruneConfig, file) from None
    return config.model_copy(update={"base_dir": str(base_dir or Path.cwd())})
