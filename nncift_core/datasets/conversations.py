"""Conversations to prompt and response: OpenAI `messages` and ShareGPT `conversations`."""

from __future__ import annotations

from typing import Any

from nncift_core.datasets.values import BadRow, shown

_ROLES = {
    "user": "User",
    "human": "User",
    "assistant": "Assistant",
    "gpt": "Assistant",
    "system": "System",
    "developer": "System",
}


def split_conversation(turns: Any, column: str) -> tuple[str, str, int]:
    """(prompt, response, number of turns after the response) of one conversation.

    The last assistant turn is the response, everything before it the prompt. A prompt of exactly
    one user turn is that turn's text; any other prompt is its turns as lines

        System: ...
        User: ...
        Assistant: ...

    in their order. Turns are `{"role", "content"}` or `{"from", "value"}`. Raises BadRow.
    """
    if not isinstance(turns, list):
        raise BadRow(f"{column} is no list of turns")
    read = [_turn(turn, k, column) for k, turn in enumerate(turns, 1)]
    last = max((k for k, (role, _) in enumerate(read) if role == "Assistant"), default=None)
    if last is None:
        raise BadRow(f"{column} has no assistant turn, so there is no response")
    before, response = read[:last], read[last][1]
    if not any(text.strip() for _, text in before):
        raise BadRow(f"{column} has nothing before the response, so there is no prompt")
    after = len(read) - last - 1
    if len(before) == 1 and before[0][0] == "User":
        return before[0][1], response, after
    return "\n".join(f"{role}: {text}" for role, text in before), response, after


def _turn(turn: Any, number: int, column: str) -> tuple[str, str]:
    where = f"{column} turn {number}"
    if not isinstance(turn, dict):
        raise BadRow(f"{where} is no object")
    keys = ("role", "content") if "role" in turn else ("from", "value")
    if keys[0] not in turn or keys[1] not in turn:
        found = ", ".join(shown(str(key)) for key in turn)
        raise BadRow(f"{where} lacks role and content (or from and value); found: {found}")
    role, text = turn[keys[0]], turn[keys[1]]
    if not isinstance(role, str) or role not in _ROLES:
        raise BadRow(f"{where} has the role {shown(repr(role))}; known: {', '.join(_ROLES)}")
    if not isinstance(text, str):
        raise BadRow(f"{where} has a {keys[1]} that is not text")
    return _ROLES[role], text
