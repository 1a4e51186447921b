"""SelectIT: how well a language model rates a row, and how sure it is (methods.md 1.4; arXiv 2402.16705).

A row is shown in K rating prompts. With p_k the next-token probability of grade k = 1..5 after one of them:
    P_k = softmax over the five of (p_k / sum p),  s = argmax_k P_k,
    S_tok = s * (1 / 4) * sum_k (P_s - P_k),
    S_sent = mean(S_tok) / (1 + alpha * std(S_tok)) over the K prompts (population std),
    value = weighted mean of S_sent over the models, weights their parameter counts, summing to 1.

p_k sums the forms of the digit that are one token in the tokenizer in use, "5" and " 5"; a form counts only
when all five digits have it (`next_tokens.digit_forms`; the tokenizer is part of the model's key). With the
template "chat", the filled prompt is the user's only message.

What prompts share is computed once: the tokens with which all K prompts of a row begin (as the product's own
do), else the tokens with which one prompt begins in every row. A prompt longer than the context loses its
first tokens, is computed alone, and its row is counted in `counters["truncated_examples"]`.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nncift_core.batching import TokenBudget, slack_of
from nncift_core.config import Config, LanguageModelConfig
from nncift_core.devices import pick
from nncift_core.errors import RunError, UserError
from nncift_core.hashing import digest
from nncift_core.influence.contract import CostModel, Float32, Int64, Pointwise, Progress, Rows
from nncift_core.language_models import LanguageModel, language_model_key, load_language_model
from nncift_core.sequences import encode_prompts, fit

Float64 = npt.NDArray[np.float64]

GRADES = 5

_FIELD = "influence.selectit.prompts"
_PLACEHOLDER = re.compile(r"\{(prompt|response)\}")
# Rows whose tokens are held at once: bounds memory, and is many batches, so sorting by length pays.
_WINDOW = 1024


@dataclass(frozen=True)
class Source:
    """A model to ask: its name as the user wrote it, its `language_model_key`, and how to load it."""

    name: str
    key: str
    load: Callable[[], LanguageModel]


@dataclass(frozen=True)
class Rater:
    """A loaded model: parameters, its size; forms [1 or 2][5], token ids of the grades in each form."""

    model: LanguageModel
    parameters: int
    forms: tuple[tuple[int, ...], ...]
    budget: TokenBudget


class SelectIT(Pointwise):
    """Self-rated quality of a row, from 0 (no grade stands out) to 1.3 (surely a 5).

    The models are loaded when values are first asked for, each once, and all of them are kept.
    """

    name = "selectit"
    version = 1
    # With five prompts and one model, as by default.
    cost = CostModel(per_row=5)
    needs = frozenset[str]()

    def __init__(
        self, sources: Sequence[Source], prompts: Sequence[str], alpha: float = 0.2, batch_tokens: int = 8192
    ) -> None:
        """prompts: K >= 1 templates with {prompt} and {response}; batch_tokens: tokens of a forward pass,
        padding included, halved where memory does not hold them (never changes the key)."""
        self.sources, self.prompts, self.alpha = tuple(sources), tuple(prompts), alpha
        self.batch_tokens = batch_tokens
        self.cost = CostModel(per_row=len(self.prompts) * len(self.sources))
        self.counters: Counter[str] = Counter()

    @classmethod
    def from_config(cls, config: Config, device: str, *more: str) -> SelectIT:
        """The function of `config` on `device`, or where `[language_model] device` says; more: further
        devices that every model is spread over.

        Raises UserError for prompts or models that cannot be used.
        """
        where = pick(config.language_model.device, device, "language_model.device")
        return cls._of(config, (where, *more))

    @classmethod
    def key_of(cls, config: Config) -> str:
        """What `key()` of `from_config(config, ...)` gives, without looking at devices."""
        return cls._of(config, ("",)).key()

    @classmethod
    def _of(cls, config: Config, devices: tuple[str, ...]) -> SelectIT:
        s = config.influence.selectit
        sources = [_source(c, devices, config) for c in _models(config)]
        prompts = rating_prompts(s.prompts, config.base_dir)
        return cls(sources, prompts, s.alpha, config.language_model.batch_tokens)

    def key(self) -> str:
        """Digest of name, version, the models' keys, the texts of the prompts, and alpha."""
        return digest(
            {
                "name": self.name,
                "version": self.version,
                "models": sorted(source.key for source in self.sources),
                "prompts": self.prompts,
                "alpha": self.alpha,
            }
        )

    @cached_property
    def raters(self) -> list[Rater]:
        """The models with their digits, loaded at first use; raises UserError for one without digits."""
        return [_rater(source, self.batch_tokens) for source in self.sources]

    def values(self, rows: Rows, progress: Progress | None = None) -> Float32:
        """Value of every row, [len(rows)]; progress(k) when k rows are rated by every model.

        Raises RunError when a probability is not a number.
        """
        sizes = np.array([rater.parameters for rater in self.raters], np.float64)
        out = np.zeros(len(rows))
        for start in range(0, len(rows), _WINDOW):
            window = rows.take(np.arange(start, min(start + _WINDOW, len(rows))))
            done = _Finished(len(window), len(self.prompts) * len(self.raters), progress)
            cut = np.zeros(len(window), bool)
            for weight, rater in zip(sizes / sizes.sum(), self.raters, strict=True):
                p, shortened = self._probability(rater, window, done)
                cut |= shortened
                s_tok = token_level(grade_distribution(p))
                out[start : start + len(window)] += weight * sentence_level(s_tok, self.alpha)
            self.counters["truncated_examples"] += int(cut.sum())
        return out.astype(np.float32)

    def token_probability(self, rater: Rater, rows: Rows) -> Float64:
        """p_k of every row and prompt under one model, [len(rows), K, 5]."""
        return self._probability(rater, rows, lambda finished: None)[0]

    def _probability(
        self, rater: Rater, rows: Rows, done: Callable[[Int64], None]
    ) -> tuple[Float64, npt.NDArray[np.bool_]]:
        """p_k [len(rows), K, 5], and which rows [len(rows)] had a prompt cut."""
        from nncift_core.influence.next_tokens import prompt_log_probs

        sequences, cut = self._sequences(rater.model, rows)
        ids = [k for form in rater.forms for k in form]
        log_p = prompt_log_probs(rater.model, sequences, ids, rater.budget, cut, done)
        shape = (len(rows), len(self.prompts), len(rater.forms), GRADES)
        p: Float64 = np.exp(log_p.astype(np.float64)).reshape(shape).sum(axis=2)
        if not (np.isfinite(p).all() and (p.sum(axis=2) > 0).all()):
            raise RunError('the model gave a probability that is not a number: use dtype = "float32"')
        return p, cut

    def _sequences(
        self, model: LanguageModel, rows: Rows
    ) -> tuple[list[list[list[int]]], npt.NDArray[np.bool_]]:
        """Ids of prompt k of row r at [r][k], BOS first, cut to the context; and which rows were cut."""
        out: list[list[list[int]]] = [[] for _ in range(len(rows))]
        cut = np.zeros(len(rows), bool)
        for template in self.prompts:
            texts = [
                _fill(template, prompt=p, response=r)
                for p, r in zip(rows.prompts, rows.responses, strict=True)
            ]
            for r, tokens in enumerate(encode_prompts(model, texts, "{prompt}")):
                ids, _, shortened = fit(model, tokens, [], _FIELD)
                out[r].append(ids)
                cut[r] |= shortened
        return out, cut


class _Finished:
    """Counts prompts of n rows, and reports a row when all `parts` of it are done."""

    def __init__(self, n: int, parts: int, progress: Progress | None) -> None:
        self._left = np.full(n, parts)
        self._progress = progress

    def __call__(self, rows: Int64) -> None:
        np.subtract.at(self._left, rows, 1)
        whole = int((self._left[np.unique(rows)] == 0).sum())
        if whole and self._progress is not None:
            self._progress(whole)


def grade_distribution(p: Float64) -> Float64:
    """P = softmax over the five of p_k / sum p: p [..., 5] -> [..., 5]."""
    relative = np.exp(p / p.sum(axis=-1, keepdims=True))
    out: Float64 = relative / relative.sum(axis=-1, keepdims=True)
    return out


def base_score(grades: Float64) -> Int64:
    """s = argmax_k P_k, 1..5, the lower grade of equals: P [..., 5] -> [...]."""
    return np.asarray(grades.argmax(axis=-1) + 1, np.int64)


def token_level(grades: Float64) -> Float64:
    """S_tok = s * (1 / 4) * sum_k (P_s - P_k): P [..., 5] -> [...]."""
    best = grades.max(axis=-1)
    out: Float64 = base_score(grades) * (GRADES * best - grades.sum(axis=-1)) / (GRADES - 1)
    return out


def sentence_level(token: Float64, alpha: float) -> Float64:
    """S_sent = mean / (1 + alpha * std) over the K prompts, population std: S_tok [n, K] -> [n]."""
    out: Float64 = token.mean(axis=1) / (1 + alpha * token.std(axis=1))
    return out


def rating_prompts(setting: str | list[str] | None, base_dir: str = "") -> tuple[str, ...]:
    """The prompts of `influence.selectit.prompts`: a list, the path of a TOML file (relative ones start
    from `base_dir`) with a list `prompts`, or None: the product's own five.

    Raises UserError naming file, field and mend.
    """
    if isinstance(setting, list):
        return _checked(setting, None, _FIELD)
    own = Path(__file__).with_name("selectit_prompts.toml")
    path = own if setting is None else Path(base_dir or ".") / Path(setting).expanduser()
    shown = own.name if setting is None else setting
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(
            f'no file "{shown}"', field=_FIELD, mend="Give a TOML file with a list `prompts`."
        ) from None
    except OSError as e:
        mend = "Give a TOML file with a list `prompts`."
        raise UserError(f'"{shown}" cannot be read ({e.strerror})', field=_FIELD, mend=mend) from None
    except ValueError as e:
        raise UserError(
            f"broken TOML: {e}", file=shown, field=_FIELD, mend="Mend it at that place."
        ) from None
    if "prompts" not in data:
        raise UserError("has no list `prompts`", file=shown, field=_FIELD, mend="Add prompts = [...].")
    return _checked(data["prompts"], shown, "prompts")


def _checked(prompts: object, file: str | None, field: str) -> tuple[str, ...]:
    if not isinstance(prompts, list) or not prompts or not all(isinstance(p, str) for p in prompts):
        raise UserError(
            "is no list of texts", file=file, field=field, mend="List at least one rating prompt."
        )
    for k, prompt in enumerate(prompts):
        for name in ("{prompt}", "{response}"):
            if name not in prompt:
                raise UserError(
                    f"prompt {k + 1} lacks the placeholder {name}",
                    file=file,
                    field=field,
                    mend="Each rating prompt shows {prompt} and {response}.",
                )
    return tuple(prompts)


def _fill(template: str, **fields: str) -> str:
    return _PLACEHOLDER.sub(lambda match: fields[match[1]], template)


def _models(config: Config) -> list[LanguageModelConfig]:
    """One section per model to ask; a revision belongs to the model that `[language_model]` names."""
    own = config.language_model
    names = config.influence.selectit.models or [own.model]
    return [own if n == own.model else own.model_copy(update={"model": n, "revision": None}) for n in names]


def _source(section: LanguageModelConfig, devices: tuple[str, ...], config: Config) -> Source:
    try:
        key = language_model_key(section, config.base_dir)
    except UserError as e:
        if not config.influence.selectit.models:
            raise
        raise UserError(e.what, mend=e.mend, file=e.file, field="influence.selectit.models") from None

    def load() -> LanguageModel:
        return load_language_model(section, devices[0], config.base_dir, devices)

    return Source(section.model, key, load)


def _rater(source: Source, batch_tokens: int) -> Rater:
    from nncift_core.influence.next_tokens import digit_forms

    model = source.load()
    budget = TokenBudget(batch_tokens, slack_of(model.device), device=model.device)
    return Rater(model, model.model.num_parameters(), tuple(digit_forms(model, source.name).values()), budget)
