"""Servers that speak OpenAI's protocol: vLLM, llama.cpp, Ollama, and others."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mltrigger.errors import InvalidModel, ModelFailure
from mltrigger.event.event import Event
from mltrigger.text import short
from mltrigger.versions.address import Address
from mltrigger.versions.scheme import Description, Endpoint, Scheme, Setting
from mltrigger.versions.schemes.http.answers import MAX_RETRY_AFTER_S, said_in
from mltrigger.versions.schemes.http.client import (
    Answer,
    Http,
    HttpEndpoint,
    base_url,
    checked_http,
    default_name,
)
from mltrigger.versions.schemes.http.loopback import is_loopback
from mltrigger.versions.schemes.http.plain import one_each
from mltrigger.versions.schemes.http.targets import default_name_of
from mltrigger.versions.schemes.http.templates import Template
from mltrigger.versions.schemes.openai.answers import asks_for_json, columns, tokens
from mltrigger.versions.schemes.openai.messages import Messages

PREFIX = "openai+"
TASKS = {"chat": "/chat/completions", "completions": "/completions", "embeddings": "/embeddings"}
API_KEY_ENV = "OPENAI_API_KEY"
_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_SET_HERE = {
    "model": "option model",
    "messages": "option messages",
    "prompt": "option prompt",
    "input": "option prompt",
    "stream": "nothing: answers are read whole",
    "encoding_format": "nothing: numbers are read",
}
"""What a request has that ``params`` must not change, and what says it instead."""


class OpenAI(Scheme):
    """``openai+http(s)://host/v1``: one model of a server that speaks OpenAI's protocol.

    The output of chat and completions is an object: ``text`` (or ``answer``, see *json*),
    ``finish_reason``, ``model``, ``prompt_tokens``, ``completion_tokens`` and ``total_tokens``.
    Whatever else the message holds stands beside it under the server's own name: ``tool_calls``,
    with their arguments as values, ``reasoning`` or ``reasoning_content``, ``refusal``, ``audio``,
    ``annotations``; and ``logprobs``. Several answers (``params={"n": 3}``) are ``choices``, each
    with these columns; the others are those of the first. An answer cut off (``length``) or
    withheld (``content_filter``) is an output like any other: the column says so. One that holds
    nothing is a failure, ``bad_model_response``.

    Embeddings are ``embedding``, ``model`` and ``prompt_tokens``; several events are one call, of
    which the server says only the sum: then ``prompt_tokens`` is ``None``, and
    ``batch_prompt_tokens`` the sum. Answers are not streamed.

    Options
    -------
    model : str
        The model of the server; required.
    prompt : str
        A :class:`~mltrigger.versions.schemes.http.templates.Template` over the data, by default
        ``{data}``: the user's message, the prompt of a completion, or the text that is embedded.
    system : str
        A template: the system's message of a chat.
    messages : list of {"role": …, "content": …}
        All messages of a chat, with templates as contents, instead of *prompt* and *system*. A
        content may be a list of parts for images and sound, its texts templates: ``[{"type":
        "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "{photo}"}}]``.
        Bytes become base64, and a data URL where they are all of a ``url``. ``{object}`` is the
        file or object that the event announces, as ``event.open()`` reads it.
    task : str
        ``chat`` (default), ``completions`` or ``embeddings``.
    params : dict
        More members of the request: ``temperature``, ``max_tokens``, ``seed``, ``tools``, ``n``,
        ``logprobs``, ``dimensions`` …
    json : bool
        Whether the model is asked for a JSON object (``response_format``), which the output then
        has under ``answer``, as it has when *params* hold a ``response_format`` of JSON. One that
        is cut off or withheld is ``None``, with its ``text``; anything else that is no JSON is a
        failure, ``invalid_output``.
    message : bool
        Whether the whole message, as the server sent it, is the column ``message``.
    batch : bool
        Whether the embeddings of several events are one call; so it is by default.
    api_key_env : str
        The environment variable with the key, sent as ``Authorization: Bearer …``. By default
        ``OPENAI_API_KEY`` if that is set when the model is opened, but never in clear text to
        another machine: for plain ``http://`` beyond this one, name it.
    headers, max_answer_mb, connect_timeout_s
        As for :class:`~mltrigger.versions.schemes.http.json_http.JsonHttp`.
    """

    def describe(self, address: Address) -> Description:
        """See :meth:`Scheme.describe`."""
        url, options = _url(address), _options(address)
        _request(options, short(address.text))
        name = default_name_of(options["model"].rpartition("/")[2]) or default_name(url)
        return Description(name, about=f"{options['model']} at {url.partition('?')[0]}"[:200])

    def open(self, address: Address, setting: Setting) -> Endpoint:
        """See :meth:`Scheme.open`."""
        options = address.options
        base, task = _url(address), options.get("task", "chat")
        parts = urllib.parse.urlsplit(base)
        url = urllib.parse.urlunsplit(parts._replace(path=parts.path.rstrip("/") + TASKS[task]))
        http = Http.of(
            url,
            setting,
            {**options, "headers": {**_key(options, parts), **options.get("headers", {})}},
        )
        request = _request(options, short(address.text))
        return (
            _Embeddings(http, request, options)
            if task == "embeddings"
            else _Completion(http, request, options)
        )


def _url(address: Address) -> str:
    url = base_url(address, PREFIX)
    parts = urllib.parse.urlsplit(url)
    if end := next((end for end in TASKS.values() if parts.path.rstrip("/").endswith(end)), None):
        raise InvalidModel(
            f"model {short(url)!r}: write the address up to /v1; {end} comes from the option task"
        )
    return url if parts.path.strip("/") else urllib.parse.urlunsplit(parts._replace(path="/v1"))


def _options(address: Address) -> dict[str, Any]:
    """Return the options of *address*, each sensible and none against another."""
    own: dict[str, type] = {
        "model": str,
        "prompt": str,
        "system": str,
        "messages": list,
        "task": str,
        "params": dict,
        "json": bool,
        "message": bool,
        "batch": bool,
        "api_key_env": str,
    }
    options = checked_http(address, **own)
    shown, task = f"model {short(address.text)!r}", options.get("task", "chat")
    if not options.get("model"):
        raise InvalidModel(
            f"{shown}: option model is missing: which of the server's models, such as"
            " model='qwen2.5'"
        )
    if task not in TASKS:
        raise InvalidModel(f"{shown}: option task must be one of {', '.join(TASKS)}; got {task!r}")
    if not _VARIABLE.fullmatch(options.get("api_key_env", API_KEY_ENV)):
        raise InvalidModel(
            f"{shown}: option api_key_env must be the name of an environment variable, never the"
            " key itself"
        )
    if "messages" in options and ("prompt" in options or "system" in options):
        raise InvalidModel(
            f"{shown}: option messages has all messages; leave out prompt and system"
        )
    if task != "chat" and (
        wrong := next(
            (name for name in ("messages", "system", "json", "message") if name in options), None
        )
    ):
        raise InvalidModel(f"{shown}: option {wrong} is for chats; task is {task!r}")
    if options.get("batch") and task != "embeddings":
        raise InvalidModel(
            f"{shown}: option batch is for embeddings; a server answers one prompt at a time,"
            " several calls at once"
        )
    for name in options.get("params", {}):
        if name in _SET_HERE or (name == "response_format" and options.get("json")):
            raise InvalidModel(
                f"{shown}: params must not hold {name!r}; what says it is"
                f" {_SET_HERE.get(name, 'option json')}"
            )
    return options


def _key(options: Mapping[str, Any], parts: urllib.parse.SplitResult) -> dict[str, str]:
    """Return the header with the key, named and not read; empty when there is none to send."""
    named = options.get("api_key_env")
    if any(name.lower() == "authorization" for name in options.get("headers", {})):
        return {}
    if named is None and (
        not os.environ.get(API_KEY_ENV, "").strip()
        or not (parts.scheme == "https" or is_loopback(parts.hostname or ""))
    ):
        return {}
    return {"Authorization": f"Bearer env:{named or API_KEY_ENV}"}


def _request(options: Mapping[str, Any], about: str) -> Callable[[Event], dict[str, Any]]:
    """Return what makes the request for an event; the templates are read now."""
    task, fixed = (
        options.get("task", "chat"),
        {"model": options["model"], **options.get("params", {})},
    )
    if task != "chat":
        prompt = Template(options.get("prompt", "{data}"), f"option prompt of {about}")
        member = "prompt" if task == "completions" else "input"
        return lambda event: {**fixed, member: prompt.fill(event.data)}
    if options.get("json"):
        fixed["response_format"] = {"type": "json_object"}
    messages = Messages(_messages(options, about))
    return lambda event: {**fixed, "messages": messages.fill(event)}


def _messages(options: Mapping[str, Any], about: str) -> list[tuple[str, Any]]:
    """Return the messages of a chat that the options describe, and where each stands in them."""
    if "messages" in options:
        if not options["messages"]:
            raise InvalidModel(f"option messages of {about} is empty")
        return [
            (f"option messages[{number}] of {about}", message)
            for number, message in enumerate(options["messages"])
        ]
    system = [("system", options["system"])] if "system" in options else []
    given = [*system, ("prompt", options.get("prompt", "{data}"))]
    roles = {"system": "system", "prompt": "user"}
    return [
        (f"option {name} of {about}", {"role": roles[name], "content": text})
        for name, text in given
    ]


class _OpenAIEndpoint(HttpEndpoint):
    def __init__(self, http: Http, request: Callable[[Event], dict[str, Any]]) -> None:
        super().__init__(http)
        self._request = request

    def post(self, body: Mapping[str, Any]) -> tuple[Answer, dict[str, Any]]:
        """Return the server's answer, an object without an error."""
        try:
            answer = self.http.post("", body)
        except ModelFailure as failure:
            if failure.throttled and "insufficient_quota" in (failure.detail or ""):
                # heals when somebody pays, and is no event's fault
                failure.delay_s = MAX_RETRY_AFTER_S
            raise
        value = answer.json()
        if not isinstance(value, dict):
            raise answer.failure(f"with no object but {short(value)}")
        if value.get("error") or value.get("object") == "error":
            raise answer.failure(
                f"with an error: {said_in(value) or short(value, 200)}", reason="model_http_error"
            )
        return answer, value


class _Completion(_OpenAIEndpoint):
    def __init__(
        self, http: Http, request: Callable[[Event], dict[str, Any]], options: Mapping[str, Any]
    ) -> None:
        super().__init__(http, request)
        self._parsed, self._whole = asks_for_json(options), options.get("message", False)

    def call(self, events: Sequence[Event]) -> Sequence[Any]:
        return [
            columns(*self.post(self._request(event)), parsed=self._parsed, whole=self._whole)
            for event in events
        ]


def _is_vector(value: Any) -> bool:
    """Whether *value* is a list of numbers, or several of them, as models with a vector for each
    token give.
    """
    return (
        isinstance(value, list)
        and bool(value)
        and (set(map(type, value)) <= {int, float} or all(map(_is_vector, value)))
    )


class _Embeddings(_OpenAIEndpoint):
    def __init__(
        self, http: Http, request: Callable[[Event], dict[str, Any]], options: Mapping[str, Any]
    ) -> None:
        super().__init__(http, request)
        self.batches = options.get("batch", True)

    def call(self, events: Sequence[Event]) -> Sequence[Any]:
        requests = [self._attempt(event) for event in events]
        good = [request for request in requests if isinstance(request, dict)]
        if not good:
            return requests
        answer, value = self.post({**good[0], "input": [request["input"] for request in good]})
        found = one_each(answer, value.get("data"), len(good), "embeddings")
        if not all(isinstance(item, dict) and _is_vector(item.get("embedding")) for item in found):
            raise answer.failure("without embeddings, which are lists of numbers")
        places = [item.get("index") for item in found]
        if all(isinstance(place, int) for place in places) and len(set(places)) > 1:
            if len(set(places)) < len(places):
                raise answer.failure(
                    "with two embeddings for the same text: an index is there twice", whole=True
                )
            found = sorted(found, key=lambda item: int(item["index"]))
        cost = tokens(value)["prompt_tokens"]
        counted = (
            {"prompt_tokens": cost}
            if len(good) == 1
            else {"prompt_tokens": None, "batch_prompt_tokens": cost}
        )
        outputs = iter(
            [
                {"embedding": item["embedding"], "model": value.get("model"), **counted}
                for item in found
            ]
        )
        return [next(outputs) if isinstance(request, dict) else request for request in requests]

    def _attempt(self, event: Event) -> dict[str, Any] | ModelFailure:
        try:
            return self._request(event)
        except ModelFailure as failure:
            return failure
