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
from mltrigger.versions.schemes.failures import attempt, in_one_call
from mltrigger.versions.schemes.http.answers import MAX_RETRY_AFTER_S, Answer
from mltrigger.versions.schemes.http.client import Http
from mltrigger.versions.schemes.http.endpoint import HttpEndpoint
from mltrigger.versions.schemes.http.loopback import is_loopback
from mltrigger.versions.schemes.http.saying import said_in
from mltrigger.versions.schemes.http.targets import base_url, checked_http, default_name
from mltrigger.versions.schemes.http.templates import Template
from mltrigger.versions.schemes.openai.answers import asks_for_json, columns, tokens
from mltrigger.versions.schemes.openai.messages import Messages
from mltrigger.versions.schemes.options import model_name

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
"""Members that ``params`` must not have, and the option to use instead."""


class OpenAI(Scheme):
    """``openai+http(s)://host/v1``: one model of a server that speaks OpenAI's protocol.

    The output of chat and completions is an object with ``text`` (or ``answer``, see *json*),
    ``finish_reason``, ``model``, ``prompt_tokens``, ``completion_tokens`` and ``total_tokens``.
    Other members of the message are columns under the server's own name: ``tool_calls`` with the
    values of their arguments, ``reasoning`` or ``reasoning_content``, ``refusal``, ``audio``,
    ``annotations``. So is ``logprobs``. Several answers (``params={"n": 3}``) are ``choices``, each
    with these columns. The other columns are those of the first answer.

    An answer that is cut off (``length``) or withheld (``content_filter``) is an output, with that
    ``finish_reason``. An empty one is a failure, ``bad_model_response``. Answers are not streamed.

    Embeddings have ``embedding``, ``model`` and ``prompt_tokens``. Several events are one call. The
    server tells only the sum of their tokens: ``batch_prompt_tokens`` is the sum, and
    ``prompt_tokens`` is ``None``.

    Options
    -------
    model : str
        The model of the server. Required.
    prompt : str
        A :class:`~mltrigger.versions.schemes.http.templates.Template` over the data, by default
        ``{data}``. It is the user's message, the prompt of a completion, or the text to embed.
    system : str
        A template for the system message of a chat.
    messages : list of {"role": …, "content": …}
        All messages of a chat, with templates as contents, instead of *prompt* and *system*. A
        content may be a list of parts for images and sound, whose texts are templates: ``[{"type":
        "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "{photo}"}}]``.
        Bytes become base64, or a data URL where they are all of a ``url``. ``{object}`` is the file
        or object that the event announces, as ``event.open()`` reads it.
    task : str
        ``chat`` (default), ``completions`` or ``embeddings``.
    params : dict
        More members of the request: ``temperature``, ``max_tokens``, ``seed``, ``tools``, ``n``,
        ``logprobs``, ``dimensions`` …
    json : bool
        Whether the model is asked for a JSON object (``response_format``). Its value is the column
        ``answer``. So it is when *params* hold a ``response_format`` of JSON. It is ``None``,
        beside its ``text``, when it is cut off or withheld. Any other text that is not JSON is a
        failure, ``invalid_output``.
    message : bool
        Whether the whole message, as the server sent it, is the column ``message``.
    batch : bool
        Whether the embeddings of several events are one call. Default: ``True``.
    api_key_env : str
        The environment variable with the key, sent as ``Authorization: Bearer …``. Default:
        ``OPENAI_API_KEY``, if it is set when the model is opened. The default is not sent in clear
        text to another machine: for plain ``http://`` beyond this one, name the variable.
    headers, max_answer_mb, connect_timeout_s
        As for :class:`~mltrigger.versions.schemes.http.json_http.JsonHttp`.
    """

    def describe(self, address: Address) -> Description:
        """See :meth:`Scheme.describe`."""
        url, options = _url(address), _options(address)
        _request(options, short(address.text))
        name = model_name(options["model"].rpartition("/")[2]) or default_name(url)
        return Description(name, about=f"{options['model']} at {url.partition('?')[0]}"[:200])

    def open(self, address: Address, setting: Setting) -> Endpoint:
        """See :meth:`Scheme.open`."""
        options = address.options
        base, task = _url(address), options.get("task", "chat")
        parts = urllib.parse.urlsplit(base)
        url = urllib.parse.urlunsplit(parts._replace(path=parts.path.rstrip("/") + TASKS[task]))
        headers = {**_key(options, parts), **options.get("headers", {})}
        http = Http(url, setting, {**options, "headers": headers})
        kind = _Embeddings if task == "embeddings" else _Completion
        return kind(http, _request(options, short(address.text)), options)


def _url(address: Address) -> str:
    url = base_url(address, PREFIX)
    parts = urllib.parse.urlsplit(url)
    if end := next((end for end in TASKS.values() if parts.path.rstrip("/").endswith(end)), None):
        raise InvalidModel(
            f"model {short(url)!r}: write the address up to /v1; {end} comes from the option task"
        )
    return url if parts.path.strip("/") else urllib.parse.urlunsplit(parts._replace(path="/v1"))


def _options(address: Address) -> dict[str, Any]:
    """Return the options of *address*, checked one by one and against each other."""
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
                f"{shown}: params must not hold {name!r}; instead, use"
                f" {_SET_HERE.get(name, 'option json')}"
            )
    return options


def _key(options: Mapping[str, Any], parts: urllib.parse.SplitResult) -> dict[str, str]:
    """Return the header with the name of the key's variable, empty when no key is to be sent."""
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
    """Return a function from an event to its request. The templates are read now."""
    task = options.get("task", "chat")
    fixed = {"model": options["model"], **options.get("params", {})}
    if task != "chat":
        prompt = Template(options.get("prompt", "{data}"), f"option prompt of {about}")
        member = "prompt" if task == "completions" else "input"
        return lambda event: {**fixed, member: prompt.fill(event.data)}
    if options.get("json"):
        fixed["response_format"] = {"type": "json_object"}
    messages = Messages(_messages(options, about))
    return lambda event: {**fixed, "messages": messages.fill(event)}


def _messages(options: Mapping[str, Any], about: str) -> list[tuple[str, Any]]:
    """Return the messages of a chat, each behind its place in the options."""
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
    def __init__(
        self, http: Http, request: Callable[[Event], dict[str, Any]], options: Mapping[str, Any]
    ) -> None:
        super().__init__(http)
        self._request, self._options = request, options
        self.batches = options.get("task") == "embeddings" and options.get("batch", True)

    def post(self, body: Mapping[str, Any]) -> tuple[Answer, dict[str, Any]]:
        """Return the answer and its object, or raise the error in it."""
        try:
            answer = self.http.post("", body)
        except ModelFailure as failure:
            if failure.throttled and "insufficient_quota" in (failure.detail or ""):
                # No event's fault: the account has no money left.
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
    def call(self, events: Sequence[Event]) -> Sequence[Any]:
        parsed, whole = asks_for_json(self._options), self._options.get("message", False)
        return [
            columns(*self.post(self._request(event)), parsed=parsed, whole=whole)
            for event in events
        ]


class _Embeddings(_OpenAIEndpoint):
    def call(self, events: Sequence[Event]) -> Sequence[Any]:
        return in_one_call([attempt(self._request, event) for event in events], self._asked)

    def _asked(self, requests: Sequence[Mapping[str, Any]]) -> Sequence[Any]:
        texts = [request["input"] for request in requests]
        answer, value = self.post({**requests[0], "input": texts})
        found = answer.one_each(value.get("data"), len(texts), "embeddings")
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
        counted = {"prompt_tokens": cost}
        if len(texts) > 1:
            counted = {"prompt_tokens": None, "batch_prompt_tokens": cost}
        model = value.get("model")
        return [{"embedding": item["embedding"], "model": model, **counted} for item in found]


def _is_vector(value: Any) -> bool:
    """Whether *value* is a list of numbers, or of such lists: some models have one per token."""
    return (
        isinstance(value, list)
        and bool(value)
        and (set(map(type, value)) <= {int, float} or all(map(_is_vector, value)))
    )
