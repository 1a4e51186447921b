"""One request to an OpenAI-compatible endpoint: what came back, or why nothing did and whether to ask again.

The key is read from the environment when a client is made. It stands in the request's header and nowhere
else: not in the config, in no exception, no log line and no stored file. Bodies of errors are not kept, since
servers quote keys in them.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from nncift_core.config_evaluation import JudgeConfig
from nncift_core.errors import UserError

_MOST_BYTES = 1 << 20
# Passing by themselves: too early, too many, or the server's own trouble.
_AGAIN = frozenset({408, 409, 425, 429, *range(500, 600)})
_NEW_LIMIT = "max_completion_tokens"
# What says in plain words that something is not known, in the same sentence as its name.
_UNSUPPORTED = re.compile(
    r"unsupported|not\s+(?:be\s+)?support|n't\s+support|not\s+permitted|deprecated", re.I
)
_SENTENCE = re.compile(r"(?<=[.;!])\s+|\n+")


@dataclass(frozen=True)
class Reply:
    """What the model said (None where the answer is no chat completion), and tokens as the endpoint counts
    them (None where it does not say); own_temperature: whether the temperature asked for was left out, since
    the endpoint refuses to be told one."""

    text: str | None
    input_tokens: int | None
    output_tokens: int | None
    own_temperature: bool = False


@dataclass(frozen=True)
class Failure:
    """Why there is no reply; again: whether asking again may help; wait: seconds that the endpoint asks to
    wait before that, None where it says nothing."""

    reason: str
    again: bool
    wait: float | None = None


def api_key(config: JudgeConfig) -> str | None:
    """The key from the environment; None where none is named, or an endpoint on this machine lacks one.

    Raises UserError for a variable that is not set or holds what can be no key, without showing it.
    """
    name = config.api_key_env
    if not name:
        return None
    key = os.environ.get(name, "").strip()
    if not key and config.loopback:
        return None
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(
            f"the environment variable {name} {'is not set' if not key else 'holds no usable key'}",
            field="evaluation.judge.api_key_env",
            mend='Set it before the run, or api_key_env = "" for an endpoint that wants no key.',
        )
    return key


class Endpoint:
    """Asks one endpoint; usable from several threads. Raises UserError as `api_key`, and for an address that
    is none."""

    def __init__(self, config: JudgeConfig) -> None:
        self._config, self._key = config, api_key(config)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            self._url = httpx.URL(f"{config.base_url.rstrip('/')}/chat/completions")
        except httpx.InvalidURL as e:
            raise UserError(
                f"is no address that can be asked ({e})", field="evaluation.judge.base_url", mend="Mend it."
            ) from None
        # What some models want otherwise than the first version of the protocol.
        self._limit_name, self._send_temperature = "max_tokens", True
        self._turn = threading.Lock()
        self._client = httpx.Client(
            headers={**headers, "Accept-Encoding": "identity"},
            timeout=config.timeout_s,
            limits=httpx.Limits(max_connections=config.concurrency),
            # A proxy of the environment does not know this machine's own ports.
            trust_env=not config.loopback,
        )

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def ask(self, messages: Sequence[dict[str, str]]) -> Reply | Failure:
        """One request of at most `timeout_s` seconds, put anew (twice at most) where the endpoint refuses the
        name of a setting."""
        body = self._body(messages)
        while True:
            found = self._post(body)
            if isinstance(found, Reply):
                return replace(found, own_temperature="temperature" not in body)
            if isinstance(found, Failure):
                return found
            self._adapt(found)
            # Another thread may have adapted while this one waited: what counts is what was sent.
            refused, body = body, self._body(messages)
            if body == refused:
                return Failure("HTTP 400", again=False)

    def _body(self, messages: Sequence[dict[str, str]]) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self._config.model, "messages": list(messages)}
        with self._turn:
            name, send_temperature = self._limit_name, self._send_temperature
        body[name] = self._config.max_tokens
        return body | ({"temperature": self._config.temperature} if send_temperature else {})

    def _adapt(self, refusal: str) -> None:
        """Put requests from now on in the way that a refusal asks for. Newer models refuse a parameter of the
        old protocol by its name; the request is not to blame. Both settings change once and never back."""
        with self._turn:
            if _refuses(refusal, "max_tokens", _NEW_LIMIT):
                self._limit_name = _NEW_LIMIT
            if _refuses(refusal, "temperature"):
                self._send_temperature = False

    def _post(self, body: dict[str, Any]) -> Reply | Failure | str:
        """The reply, the failure, or the text of a refusal of the request itself (HTTP 400)."""
        # httpx limits each wait for bytes; bytes that drip in would come to no end.
        deadline = time.monotonic() + self._config.timeout_s
        try:
            with self._client.stream("POST", self._url, json=body) as response:
                parts, size = [], 0
                for part in response.iter_bytes():
                    parts.append(part)
                    size += len(part)
                    if size > _MOST_BYTES:
                        return Failure("an answer of more than 1 MiB", again=False)
                    if time.monotonic() > deadline:
                        return Failure("timed out", again=True)
        except httpx.TimeoutException:
            return Failure("timed out", again=True)
        except httpx.HTTPError as e:
            return Failure(f"no connection ({type(e).__name__})", again=True)
        text = b"".join(parts).decode("utf-8", "replace")
        if response.status_code == 400:
            return text
        if response.status_code != 200:
            return Failure(
                f"HTTP {response.status_code}", response.status_code in _AGAIN, _retry_after(response.headers)
            )
        return self._reply(text)

    def _reply(self, text: str) -> Reply:
        try:
            found = json.loads(text)
            usage = found.get("usage") or {}
            said = found["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            return Reply(None, None, None)
        read, written = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
        if not isinstance(said, str):
            return Reply(None, read, written)
        return Reply(said.replace(self._key, "[key]") if self._key else said, read, written)


def _count(usage: Any, name: str) -> int | None:
    """Tokens that an endpoint's `usage` gives under `name`; None where it gives no such number."""
    found = usage.get(name) if isinstance(usage, dict) else None
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None


def _refuses(refusal: str, name: str, instead: str = "") -> bool:
    """Whether the text of an HTTP 400 says that the parameter `name` is not supported, or to use `instead`.

    The error's own fields come first: a `param` of another name says no, this one with a `code` of
    "unsupported..." yes. Else a sentence of the message must hold both the name and that it is not supported:
    a value out of range, or a word of the prompt that is quoted, is no such refusal.
    """
    try:
        found = json.loads(refusal)
    except (ValueError, RecursionError):
        found = None
    error = found.get("error", found) if isinstance(found, dict) else found
    message: Any = error
    if isinstance(error, dict):
        param, code, message = error.get("param"), error.get("code"), error.get("message")
        if isinstance(param, str) and param and param != name:
            return False
        if param == name and isinstance(code, str) and "unsupported" in code.lower():
            return True
    text = message if isinstance(message, str) else refusal
    word = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")
    if instead and re.search(rf"\buse\W{{1,3}}{instead}\b", text, re.I):
        return True
    return any(word.search(s) and _UNSUPPORTED.search(s) for s in _SENTENCE.split(text))


def _retry_after(headers: httpx.Headers) -> float | None:
    """Seconds of the header Retry-After, which gives them or a date."""
    said = headers.get("Retry-After", "").strip()
    if said.isascii() and said.isdigit():
        return float(said)
    try:
        when = parsedate_to_datetime(said)
    except (TypeError, ValueError):
        return None
    when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
