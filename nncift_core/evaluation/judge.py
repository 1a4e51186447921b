"""A language model grades answers from 1 to 5, as methods.md has it ("LLM judge 1-5").

A grade that did not come (no connection, HTTP 429 or 5xx, time out) is asked for again after 1, 2, 4, ...
seconds, or after what the endpoint says; one that cannot be read likewise. What fails to the end is counted
and has no grade. Answers of the endpoint are kept by content, so that nothing is asked twice; failures of the
connection are not, so that the next run asks for those again; the tokens that they cost all the same are.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from nncift_core.config_evaluation import JudgeConfig
from nncift_core.evaluation.endpoint import Endpoint, Failure, Reply
from nncift_core.evaluation.rubric import VERSION, messages, read_grade
from nncift_core.hashing import digest

Progress = Callable[[int], None]
State = Literal["graded", "malformed", "failed"]

# Seconds before the first repetition, doubled each time; no wait is longer than the second number.
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 120.0
# Answers in a row that failed after all their tries; then the endpoint is left alone for the other rows.
_GIVE_UP_AFTER = 10
# Seconds between two signs of life.
_LOOK = 1.0
_KEPT_TEXT = 4000
# Of a judgement that failed: what it cost.
_SPENT = ("input_tokens", "output_tokens", "unmetered")


@dataclass(frozen=True)
class Judgement:
    """key: of what was asked; grade: 1..5, None unless `state` is "graded"; reason: of a failure; retries:
    requests beyond the first; tokens as the endpoint counted them, over all requests, those of earlier runs
    that came to no grade among them; unmetered: replies of which it gave no count; text: what the judge said
    last; own_temperature: whether that came without the config's temperature, which the endpoint refuses."""

    key: str
    state: State
    grade: int | None = None
    reason: str = ""
    retries: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    unmetered: int = 0
    text: str = ""
    own_temperature: bool = False

    @property
    def value(self) -> float:
        """The grade as a number, NaN where there is none."""
        return math.nan if self.grade is None else float(self.grade)


class Cache(Protocol):
    """Judgements kept by key."""

    def get(self, key: str) -> dict[str, Any] | None:
        """What was kept under `key`."""

    def add(self, key: str, found: dict[str, Any]) -> None:
        """Keep `found` (JSON-ready) under `key`, at once."""

    def spent(self, key: str) -> dict[str, int]:
        """Sums of what was told to `spend` under `key`; empty where nothing was."""

    def spend(self, key: str, amounts: dict[str, int]) -> None:
        """Keep that `amounts` were spent under `key` for nothing, at once."""


def judge_key(config: JudgeConfig, base_dir: str) -> str:
    """Identity of a judge: model, rubric, settings of a reply; not the endpoint's address or key.

    Raises UserError for a rubric that cannot be read.
    """
    return digest(["judge", VERSION, config.identity(base_dir)])


def judge_answers(
    config: JudgeConfig,
    base_dir: str,
    rows: Sequence[tuple[str, str, str]],
    cache: Cache,
    progress: Progress | None = None,
) -> list[Judgement]:
    """Judgements of n rows (prompt, reference, answer); equal ones are asked for once.

    progress: called with rows done since the last call, and with 0 while it waits. Where 10 answers in a row
    fail after all their tries, the rest fail unasked. Raises UserError for a rubric or a key that cannot be
    used, and nothing for whatever the endpoint does.
    """
    judge, rubric = judge_key(config, base_dir), config.own_rubric(base_dir)
    rows = [(_plain(prompt), _plain(reference), _plain(answer)) for prompt, reference, answer in rows]
    keys = [digest([judge, *row]) for row in rows]
    count = Counter(keys)
    found: dict[str, Judgement] = {}
    for key in count:
        if (kept := cache.get(key)) is not None:
            found[key] = Judgement(**kept)
    if progress is not None and found:
        progress(sum(count[key] for key in found))
    asked = {k: row for k, row in zip(keys, rows, strict=True) if k not in found}
    if asked:
        with _asker(config) as asker:
            for made in asker.ask_all({k: messages(rubric, *row) for k, row in asked.items()}, progress):
                found[made.key] = _kept(made, cache)
                if progress is not None:
                    progress(count[made.key])
    return [found[key] for key in keys]


def _kept(made: Judgement, cache: Cache) -> Judgement:
    """`made` with what was spent on it before, kept as far as nobody needs to ask for it again."""
    own, before = {name: int(getattr(made, name)) for name in _SPENT}, cache.spent(made.key)
    total = replace(
        made,
        input_tokens=made.input_tokens + before.get("input_tokens", 0),
        output_tokens=made.output_tokens + before.get("output_tokens", 0),
        unmetered=made.unmetered + before.get("unmetered", 0),
    )
    if made.state != "failed":
        cache.add(made.key, vars(total))
    elif any(own.values()):
        cache.spend(made.key, own)
    return total


def _plain(text: str) -> str:
    """Text that can be hashed and sent: lone surrogates replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


@contextmanager
def _asker(config: JudgeConfig) -> Iterator[_Asker]:
    endpoint = Endpoint(config)
    asker = _Asker(config, endpoint)
    try:
        yield asker
    finally:
        asker.stop.set()
        endpoint.close()


class _Asker:
    """Asks several things at once, each until it has a grade or its tries are over."""

    def __init__(self, config: JudgeConfig, endpoint: Endpoint) -> None:
        self._config, self._endpoint = config, endpoint
        self.stop = threading.Event()
        self._lock = threading.Lock()
        self._failed_in_a_row = 0

    def ask_all(
        self, requests: dict[str, list[dict[str, str]]], progress: Progress | None
    ) -> Iterator[Judgement]:
        """Judgements in the order in which they come."""
        pool = ThreadPoolExecutor(self._config.concurrency)
        waiting = iter(requests.items())
        running: set[Future[Judgement]] = set()
        try:
            while True:
                while len(running) < self._config.concurrency and (item := next(waiting, None)) is not None:
                    running.add(pool.submit(self._grade, *item))
                if not running:
                    return
                over, running = wait(running, timeout=_LOOK, return_when=FIRST_COMPLETED)
                if not over and progress is not None:
                    progress(0)
                for future in over:
                    yield future.result()
        finally:
            self.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _grade(self, key: str, request: list[dict[str, str]]) -> Judgement:
        made, pause = Judgement(key, "failed", reason="not asked: the endpoint fails"), 0.0
        for attempt in range(self._config.retries + 1):
            if attempt:
                self.stop.wait(min(pause, _LONGEST_WAIT))
            if self.stop.is_set() or self._failed_in_a_row >= _GIVE_UP_AFTER:
                return replace(made, state="failed")
            found = self._endpoint.ask(request)
            made, pause = replace(made, retries=attempt), _FIRST_WAIT * 2**attempt
            if isinstance(found, Failure):
                made = replace(made, state="failed", reason=found.reason)
                pause = pause if found.wait is None else found.wait
                if not found.again:
                    break
            else:
                self._note(failed=False)
                made = _with_reply(made, found)
                if made.state == "graded":
                    break
        if made.state == "failed":
            self._note(failed=True)
        return made

    def _note(self, *, failed: bool) -> None:
        with self._lock:
            self._failed_in_a_row = self._failed_in_a_row + 1 if failed else 0


def _with_reply(made: Judgement, reply: Reply) -> Judgement:
    """`made` after a reply: its tokens added, its grade read."""
    grade = None if reply.text is None else read_grade(reply.text)
    return replace(
        made,
        state="malformed" if grade is None else "graded",
        grade=grade,
        reason="no grade from 1 to 5 in the reply" if grade is None else "",
        input_tokens=made.input_tokens + (reply.input_tokens or 0),
        output_tokens=made.output_tokens + (reply.output_tokens or 0),
        unmetered=made.unmetered + (reply.input_tokens is None or reply.output_tokens is None),
        text=(reply.text or "")[:_KEPT_TEXT],
        own_temperature=reply.own_temperature,
    )
