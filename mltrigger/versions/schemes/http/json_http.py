"""Models behind plain HTTP: any JSON endpoint."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from mltrigger.errors import InvalidModel
from mltrigger.event.data import is_json
from mltrigger.event.event import Event
from mltrigger.text import short
from mltrigger.versions.address import Address
from mltrigger.versions.scheme import Description, Endpoint, Scheme, Setting
from mltrigger.versions.schemes.failures import attempt, in_one_call, unfit
from mltrigger.versions.schemes.http.answers import Answer, refused
from mltrigger.versions.schemes.http.body import Body
from mltrigger.versions.schemes.http.client import Http, Peer
from mltrigger.versions.schemes.http.endpoint import (
    HttpEndpoint,
    cloudevent_headers,
    raw_data,
    structured,
)
from mltrigger.versions.schemes.http.saying import error_in
from mltrigger.versions.schemes.http.targets import base_url, checked_http, described
from mltrigger.versions.schemes.options import check_choice

ENVELOPES = ("binary", "structured", "none")


class JsonHttp(Scheme):
    """``http(s)://host/path``: POSTs the data of one event, the JSON of the answer is the output.

    The body is JSON as :mod:`mltrigger.event.codec` writes it. NaN, bytes and decimals have the
    form of MongoDB's Extended JSON. Bytes, and text of another media type, are sent as they are. An
    answer without a body (204) is ``None``. The event travels along as a CloudEvent (``ce-id`` …),
    with its ``traceparent``.

    Options
    -------
    headers : dict
        Headers of each request. A value ``env:NAME`` or ``Bearer env:NAME`` is read from the
        environment each time. A secret must have this form.
    batch : bool
        Whether a request holds the JSON list of several events' data. Then the answer has one
        output for each.
    body : dict or list
        The body of a request, instead of the data. It is JSON whose texts are templates, such as
        ``{"inputs": "{text}"}``. A text that is one field becomes its value. ``{data}`` is all of
        the data. ``{batch}`` is the list of several events: ``{"instances": "{batch}"}``.
        ``{batch.age}`` is the list of one of their fields. With either, a batch is one call, unless
        *batch* says otherwise, and *answer* names the list of outputs. Bytes become base64.
    item : dict, list or str
        A template for each event in ``{batch}``. Default: ``"{data}"``.
        ``body={"dataframe_split": {"columns": ["age", "income"], "data": "{batch}"}},
        item=["{age}", "{income}"]``.
    envelope : str
        ``binary`` (default): the attributes of CloudEvents are headers. A batch has none.
        ``structured``: the whole event as ``application/cloudevents+json``, a batch as
        ``application/cloudevents-batch+json``. ``none``: no attributes.
    answer : str
        The part of the answer that is the output, as a dotted path: ``predictions.0.label``. With
        ``batch``: the part that is the list.
    error_field : str
        When an answer 200 is an error. Default: an object whose ``error`` is a text or an object,
        and not empty. Beside it stand only members that go with errors (``message``, ``code``,
        ``status``, ``detail`` …). With a name: an object in which this field is not empty, zero or
        false. ``""``: never.
    max_answer_mb : int
        Longest answer. Default: 16 MiB.
    connect_timeout_s : float
        Longest wait for a connection, within the timeout of a call. Default: 5 s.
    """

    def describe(self, address: Address) -> Description:
        """See :meth:`Scheme.describe`."""
        url, options = base_url(address), _options(address)
        shown = short(url)
        check_choice(shown, options, "envelope", ENVELOPES)
        if not all(options.get("answer", "any").split(".")):
            raise InvalidModel(
                f"model {shown!r}: option answer must be a path such as 'predictions.0.label',"
                f" got {options['answer']!r}"
            )
        body = Body.of(options, f"model {shown!r}")
        if body is not None and options.get("envelope") == "structured":
            raise InvalidModel(
                f"model {shown!r}: options body and envelope='structured' both describe the"
                " request: leave one of them out"
            )
        if body is not None and options.get("batch") and not body.is_batch:
            raise InvalidModel(
                f"model {shown!r}: option body says where the events of a batch go:"
                " {'instances': '{batch}'}"
            )
        return described(url, "JSON over HTTP")

    def open(self, address: Address, setting: Setting) -> Endpoint:
        """See :meth:`Scheme.open`."""
        options = address.options
        peer = Peer(refused=functools.partial(refused, any_json=True))
        return _JsonEndpoint(Http(base_url(address), setting, options, peer=peer), options)


def _options(address: Address) -> dict[str, Any]:
    own: dict[str, type | tuple[type, ...]] = {
        "batch": bool,
        "body": (dict, list),
        "item": (dict, list, str),
        "envelope": str,
        "answer": str,
        "error_field": str,
    }
    return checked_http(address, **own)


class _JsonEndpoint(HttpEndpoint):
    def __init__(self, http: Http, options: Mapping[str, Any]) -> None:
        super().__init__(http)
        self._body = Body.of(options, short(http.url))
        self.batches = options.get("batch", self._body is not None and self._body.is_batch)
        self._envelope = options.get("envelope", "binary")
        self._path = options["answer"].split(".") if options.get("answer") else []
        self._error_field: str | None = options.get("error_field")

    def call(self, events: Sequence[Event]) -> Sequence[Any]:
        if self.batches:
            return in_one_call([attempt(self._part, event) for event in events], self._asked)
        if len(events) == 1:
            return [self._one(events[0])]
        return [attempt(self._one, event) for event in events]

    def _asked(self, parts: Sequence[Any]) -> list[Any]:
        """Return the outputs of several events, with failures in their places."""
        answer, outputs = self._many(parts)
        return [attempt(self._item, answer, output) for output in outputs]

    def _many(self, parts: Sequence[Any]) -> tuple[Answer, Sequence[Any]]:
        """Return the answer for several events, and its outputs."""
        kind = "application/json"
        if self._envelope == "structured":
            kind = "application/cloudevents-batch+json"
        body = b"[" + b",".join(parts) + b"]" if self._body is None else self._body.of_batch(parts)
        answer = self.http.post("", body, {"Content-Type": kind})
        found, hint = self._output(answer), ""
        if not self._path and isinstance(found, dict):
            hint = f"; answer={next(iter(found), 'predictions')!r} says which part has them"
        return answer, answer.one_each(found, len(parts), "outputs", hint)

    def _one(self, event: Event) -> Any:
        headers = {"traceparent": event.traceparent} if event.traceparent else {}
        if self._envelope == "binary":
            headers = cloudevent_headers(event)
        if self._body is not None and self._body.is_batch:
            answer, (output,) = self._many([self._body.part(event.data)])
            return self._item(answer, output)
        if self._envelope == "structured":
            raw, kind = structured(event), "application/cloudevents+json"
        elif self._body is not None:
            raw, kind = self._body.of_one(event.data), "application/json"
        else:
            raw, kind = raw_data(event)
        return self._output(self.http.post("", raw, {**headers, "Content-Type": kind}))

    def _part(self, event: Event) -> Any:
        """Return the part of a batch for *event*."""
        if self._body is not None:
            return self._body.part(event.data)
        if self._envelope == "structured":
            return structured(event)
        raw, kind = raw_data(event)
        if not is_json(kind):
            raise unfit(f"data of media type {kind} cannot be part of a JSON list")
        return raw

    def _output(self, answer: Answer) -> Any:
        if not answer.body.strip():
            return None
        value = self._item(answer, answer.json())
        for depth, step in enumerate(self._path):
            value = _inside(answer, value, step, ".".join(self._path[: depth + 1]))
        return value

    def _item(self, answer: Answer, value: Any) -> Any:
        """Return *value*, or raise when it is an error."""
        if (said := error_in(value, self._error_field)) is not None:
            raise answer.error(said)
        return value


def _inside(answer: Answer, value: Any, step: str, path: str) -> Any:
    if isinstance(value, dict) and step in value:
        return value[step]
    if isinstance(value, list) and step.isdecimal() and int(step[:9]) < len(value):
        return value[int(step)]
    known = f"; there is {', '.join(map(repr, list(value)[:8]))}" if isinstance(value, dict) else ""
    raise answer.failure(
        f"without {short(path)!r}, where the option answer looks{short(known, 200)}"
    )
