"""Answers of OpenAI's protocol as columns, one for each member of a message with content."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from mltrigger.errors import InvalidEvent, ModelFailure
from mltrigger.event import codec
from mltrigger.versions.schemes.http.answers import Answer

_CUT_OFF = ("length", "content_filter")
_JSON_FORMATS = ("json_object", "json_schema")
_OWN = re.compile(
    r"role|content|text|answer|message|choices|finish_reason|model|logprobs"
    r"|prompt_tokens|completion_tokens|total_tokens"
)
"""Names that a member of a message cannot have as a column."""
_TOKENS = ("prompt_tokens", "completion_tokens", "total_tokens")


def asks_for_json(options: Mapping[str, Any]) -> bool:
    """Whether the *options* of a model ask for an answer in JSON.

    They do by ``json``, or in ``params`` by the server's own options.
    """
    params = options.get("params", {})
    wanted = params.get("response_format")
    format_ = wanted.get("type") if isinstance(wanted, Mapping) else None
    return bool(options.get("json") or format_ in _JSON_FORMATS or params.get("guided_json"))


def columns(
    answer: Answer, value: Mapping[str, Any], *, parsed: bool, whole: bool
) -> dict[str, Any]:
    """Return the columns of one answer of a chat or a completion.

    Parameters
    ----------
    parsed : bool
        Whether the text is JSON, and its value is a column.
    whole : bool
        Whether the whole message is a column, too.

    Raises
    ------
    ModelFailure
        ``bad_model_response`` when there are no choices, or an empty one. ``invalid_output`` when
        the text should be JSON and is not.
    """
    choices = value.get("choices")
    if (
        not isinstance(choices, list)
        or not choices
        or not all(isinstance(choice, dict) for choice in choices)
    ):
        raise answer.failure("without choices")
    if all(isinstance(choice.get("index"), int) for choice in choices):
        choices = sorted(choices, key=lambda choice: int(choice["index"]))
    each = [_choice(answer, choice, parsed, whole) for choice in choices]
    several = {"choices": each} if len(each) > 1 else {}
    return {**each[0], **several, "model": value.get("model"), **tokens(value)}


def tokens(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counts of tokens, each ``None`` when the server does not tell it."""
    usage = value.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return {name: usage.get(name) for name in _TOKENS}


def _choice(answer: Answer, choice: Mapping[str, Any], parsed: bool, whole: bool) -> dict[str, Any]:
    message = choice.get("message")
    if not isinstance(message, dict):
        if "text" not in choice:
            raise answer.failure("with a choice that has no message")
        message = {"content": choice["text"]}
    reason, content = choice.get("finish_reason"), message.get("content")
    more = {name: inner for name, inner in message.items() if inner and not _OWN.fullmatch(name)}
    if isinstance(content, list):  # parts, from servers with thoughts or images
        more["content"], content = content, _text(content)
    if content is not None and not isinstance(content, str):
        raise answer.failure("with a content that is no text")
    if content is None and not more and reason not in _CUT_OFF:
        raise answer.failure("with a message that says nothing")
    for name in ("tool_calls", "function_call"):
        if name in more:
            more[name] = _with_arguments(more[name])
    if choice.get("logprobs") is not None:
        more["logprobs"] = choice["logprobs"]
    if whole:
        more["message"] = message
    said = _answer(answer, content, reason, message) if parsed else {"text": content}
    return {**said, **more, "finish_reason": reason}


def _text(parts: list[Any]) -> str | None:
    texts = [
        part["text"]
        for part in parts
        if isinstance(part, dict) and isinstance(part.get("text"), str)
    ]
    return "".join(texts) if texts else None


def _with_arguments(value: Any) -> Any:
    """Return tool calls with the values of their arguments.

    The protocol sends arguments as JSON in a text. A text that is not JSON stays text.
    """
    if isinstance(value, list):
        return [_with_arguments(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    found = {
        name: _with_arguments(inner) if name == "function" else inner
        for name, inner in value.items()
    }
    if isinstance(given := found.get("arguments"), str):
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            value = json.loads(given)
            codec.dumps(value)  # a lone surrogate cannot be kept as a value: it stays text
            found["arguments"] = value
    return found


def _answer(
    answer: Answer, text: str | None, reason: Any, message: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the value of a text in JSON.

    It is ``None``, beside the text, when the text is missing, cut off or withheld.
    """
    try:
        return {"answer": dataclasses.replace(answer, body=(text or "").encode()).json()}
    except (ModelFailure, UnicodeEncodeError, InvalidEvent) as error:
        if reason in _CUT_OFF or not text or message.get("refusal") or message.get("tool_calls"):
            return {"answer": None, "text": text}
        raise answer.failure(
            "with a text, where the model was asked for JSON", reason="invalid_output"
        ) from error
