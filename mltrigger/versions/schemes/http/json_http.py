"""Models behind plain HTTP: any JSON endpoint.

KServe's first protocol and MLflow's scoring server are its neighbours.
"""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mltrigger.errors import InvalidEvent, InvalidModel, ModelFailure, NotEncodable
from mltrigger.event.event import Event, encode_data, is_json
from mltrigger.text import short
from mltrigger.versions.address import Address
from mltrigger.versions.running.feeds import kinds_in
from mltrigger.versions.scheme import Description, Endpoint, Scheme, Setting
from mltrigger.versions.schemes.http.answers import said_in
from mltrigger.versions.schemes.http.client import (
    Answer,
    Http,
    HttpEndpoint,
    base_url,
    checked_http,
    cloudevent_headers,
    default_name,
    default_version,
)
from mltrigger.versions.schemes.http.json_body import Body
from mltrigger.versions.schemes.http.plain import (
    base64_object,
    base64_text,
    in_utc,
    one_each,
    plain,
    plain_text,
)

ENVELOPES = ("binary", "structured", "none")
_UNLIMITED = 1 << 60
_COMPANIONS = frozenset(
    {
        "error",
        "message",
        "detail",
        "details",
        "code",
        "status",
        "statuscode",
        "errorcode",
        "type",
        "timestamp",
        "path",
        "requestid",
        "traceid",
        "traceback",
        "trace",
        "success",
        "ok",
        "reason",
        "title",
        "param",
        "object",
    }
)
"""What stands beside an error without being an answer."""
_TIMES = re.compile(r"'((?:[^'\\]|\\.)*)': datetime")
"""A column of times in the schema that MLflow's server quotes when it refuses a table."""
_NO_TIME = re.compile(r"Failed to convert column (.+?) to type 'datetime64")
_KSERVE = re.compile(r"((?:/[^/:?]+)*/models/[^/:?]+(?:/versions/[^/:?]+)?)(:[A-Za-z]+)?")


class JsonHttp(Scheme):
    """``http(s)://host/path``: the data of one event are POSTed, the JSON of the answer is the
    output.

    The body is JSON as :mod:`mltrigger.event.codec` writes it, with NaN, bytes and decimals as
    MongoDB's Extended JSON; data of another media type, bytes or text, are sent as they are. An
    answer without a body (204) is ``None``. The event travels along as a CloudEvent (``ce-id`` …)
    and with its ``traceparent``.

    Options
    -------
    headers : dict
        A value ``env:NAME`` or ``Bearer env:NAME`` is read from the environment at each request; a
        secret must be one.
    batch : bool
        Whether a request has the JSON list of several events' data, and the answer one output for
        each.
    body : dict or list
        What is sent instead of the data: JSON whose texts are templates, ``{"inputs": "{text}"}``.
        A text that is one field becomes its value; ``{data}`` is all of the data. ``{batch}`` is
        the list of several events, ``{"instances": "{batch}"}``, and ``{batch.age}`` the list of
        one of their fields: then a batch is one call, unless *batch* says otherwise, and *answer*
        names the list of outputs. Bytes become base64.
    item : dict, list or str
        A template for each event in ``{batch}``; by default ``"{data}"``.
        ``body={"dataframe_split": {"columns": ["age", "income"], "data": "{batch}"}},
        item=["{age}", "{income}"]``.
    envelope : str
        ``binary`` (default): CloudEvents' attributes as headers; a batch has none. ``structured``:
        the whole event as ``application/cloudevents+json`` (a batch as
        ``application/cloudevents-batch+json``). ``none``.
    answer : str
        Which part of the answer is the output, as a dotted path: ``predictions.0.label``. With
        ``batch``: which part is the list.
    error_field : str
        An answer 200 with an error in it is an error. By default: an object whose ``error`` is a
        text or an object that is not empty, with nothing beside it but what goes with errors
        (``message``, ``code``, ``status``, ``detail`` …). Given by name: an object in which this
        field is anything but empty, zero or false. ``""``: nothing is taken for an error.
    max_answer_mb, connect_timeout_s
        Longest answer (16 MiB), and longest wait for a connection (5 s, within the timeout of a
        call).
    """

    def describe(self, address: Address) -> Description:
        """See :meth:`Scheme.describe`."""
        own: dict[str, Any] = {
            "batch": bool,
            "body": (dict, list),
            "item": (dict, list, str),
            "envelope": str,
            "answer": str,
        }
        url, options = _checked(address, "", **own, error_field=str)
        if options.get("envelope", "binary") not in ENVELOPES:
            raise InvalidModel(
                f"model {short(url)!r}: option envelope must be one of {', '.join(ENVELOPES)}; got"
                f" {options['envelope']!r}"
            )
        if "answer" in options and not all(options["answer"].split(".")):
            raise InvalidModel(
                f"model {short(url)!r}: option answer must be a path such as 'predictions.0.label',"
                f" got {options['answer']!r}"
            )
        body = _body(options, f"model {short(url)!r}")
        if body is not None and options.get("envelope") == "structured":
            raise InvalidModel(
                f"model {short(url)!r}: option body says what is sent, and envelope='structured'"
                " too: leave one of them out"
            )
        if body is not None and options.get("batch") and not body.is_batch:
            raise InvalidModel(
                f"model {short(url)!r}: option body says where the events of a batch go:"
                " {'instances': '{batch}'}"
            )
        return _description(url, "JSON over HTTP")

    def open(self, address: Address, setting: Setting) -> Endpoint:
        """See :meth:`Scheme.open`."""
        options = address.options
        return _JsonEndpoint(Http.of(base_url(address), setting, options, any_json=True), options)


class KServe(Scheme):
    """``kserve+http(s)://host/v1/models/NAME:predict``: the first protocol of KServe, and
    TensorFlow Serving's.

    The events' data are the ``instances``, one call for a batch; the ``predictions`` are the
    outputs. Without a verb the address means ``:predict``. Bytes are sent as ``{"b64": …}``; a NaN
    is refused, since the protocol has none.

    Options
    -------
    batch : bool
        Whether several events are one call; so it is by default.
    headers, max_answer_mb, connect_timeout_s
        As for :class:`JsonHttp`.
    """

    def describe(self, address: Address) -> Description:
        """See :meth:`Scheme.describe`."""
        url, _ = _checked(address, "kserve+", batch=bool)
        self._url(url)
        return _description(url, "KServe v1")

    def open(self, address: Address, setting: Setting) -> Endpoint:
        """See :meth:`Scheme.open`."""
        options = address.options
        return _KServeEndpoint(
            Http.of(self._url(base_url(address, "kserve+")), setting, options), options
        )

    def _url(self, url: str) -> str:
        parts = urllib.parse.urlsplit(url)
        if (found := _KSERVE.fullmatch(parts.path)) is None:
            raise InvalidModel(
                f"model {short(url)!r}: write"
                f" kserve+{parts.scheme}://{parts.netloc}/v1/models/NAME:predict"
            )
        return urllib.parse.urlunsplit(parts._replace(path=found[1] + (found[2] or ":predict")))


class MlflowServer(Scheme):
    """``mlflow+http(s)://host/invocations``: the scoring server of ``mlflow models serve``.

    Records are sent as ``dataframe_split``, one row an event, other data as ``inputs``; the
    ``predictions`` are the outputs. Events of a batch with other columns, in another order or with
    values of other types are different calls: each gets what it would get alone. NaN is ``null``,
    as pandas writes it; bytes are base64. Times become UTC without a zone, all in one form, in the
    columns that the server takes for times: it reads no others, and tells which columns these are
    when it refuses the first.

    Options
    -------
    columns : list of str
        The fields of a record that are sent, in their order. A model with a signature needs none:
        its server finds columns by their names. Any other takes them as they come, and an event's
        fields have no order that one may rely on.
    params : dict
        Sent with every call, as ``params`` of the model's signature.
    batch : bool
        Whether several events are one call; so it is by default.
    headers, max_answer_mb, connect_timeout_s
        As for :class:`JsonHttp`.
    """

    def describe(self, address: Address) -> Description:
        """See :meth:`Scheme.describe`."""
        url, options = _checked(address, "mlflow+", params=dict, batch=bool, columns=list)
        columns = options.get("columns", ["any"])
        if (
            not columns
            or not all(isinstance(each, str) and each for each in columns)
            or len(set(columns)) < len(columns)
        ):
            raise InvalidModel(
                f"model {short(url)!r}: option columns must be a list of different names, got"
                f" {short(columns)}"
            )
        return _description(url, "MLflow scoring server")

    def open(self, address: Address, setting: Setting) -> Endpoint:
        """See :meth:`Scheme.open`."""
        parts = urllib.parse.urlsplit(base_url(address, "mlflow+"))
        url = urllib.parse.urlunsplit(
            parts._replace(path=parts.path if parts.path.strip("/") else "/invocations")
        )
        return _MlflowEndpoint(Http.of(url, setting, address.options), address.options)


def _body(options: Mapping[str, Any], about: str) -> Body | None:
    if "body" not in options:
        if "item" in options:
            raise InvalidModel(
                f"{about}: option item is for the {{batch}} of option body, which is missing"
            )
        return None
    return Body(options["body"], options.get("item"), about)


def _checked(
    address: Address, prefix: str, **own: type | tuple[type, ...]
) -> tuple[str, dict[str, Any]]:
    return base_url(address, prefix), checked_http(address, **own)


def _description(url: str, what: str) -> Description:
    return Description(
        default_name(url), default_version(url), about=f"{what}: {url.partition('?')[0]}"[:200]
    )


class _JsonEndpoint(HttpEndpoint):
    def __init__(self, http: Http, options: Mapping[str, Any]) -> None:
        super().__init__(http)
        self._body = _body(options, short(http.url))
        self.batches = options.get("batch", self._body is not None and self._body.is_batch)
        self._envelope = options.get("envelope", "binary")
        self._path = options["answer"].split(".") if options.get("answer") else []
        self._error_field: str | None = options.get("error_field")

    def call(self, events: Sequence[Event]) -> Sequence[Any]:
        if not self.batches:
            return (
                [self._one(events[0])]
                if len(events) == 1
                else [_in_place(self._one, event) for event in events]
            )
        parts = [_in_place(self._part, event) for event in events]
        good = [part for part in parts if not isinstance(part, ModelFailure)]
        if not good:
            return parts
        answer, outputs = self._many(good)
        found = iter(outputs)
        return [
            part if isinstance(part, ModelFailure) else _in_place(self._item, answer, next(found))
            for part in parts
        ]

    def _many(self, parts: Sequence[Any]) -> tuple[Answer, Sequence[Any]]:
        """Return the answer for several events, and its outputs."""
        kind = (
            "application/cloudevents-batch+json"
            if self._envelope == "structured"
            else "application/json"
        )
        body = b"[" + b",".join(parts) + b"]" if self._body is None else self._body.of_batch(parts)
        answer = self.http.post("", body, {"Content-Type": kind})
        found = self._output(answer)
        hint = (
            ""
            if self._path or not isinstance(found, dict)
            else f"; answer={next(iter(found), 'predictions')!r} says which part has them"
        )
        return answer, one_each(answer, found, len(parts), "outputs", hint)

    def _one(self, event: Event) -> Any:
        trace = {"traceparent": event.traceparent} if event.traceparent else {}
        if self._envelope == "structured":
            return self._output(
                self.http.post(
                    "",
                    _structured(event),
                    {**trace, "Content-Type": "application/cloudevents+json"},
                )
            )
        headers = cloudevent_headers(event) if self._envelope == "binary" else trace
        if self._body is not None and self._body.is_batch:
            answer, (output,) = self._many([self._body.part(event.data)])
            return self._item(answer, output)
        raw, kind = (
            _raw(event)
            if self._body is None
            else (self._body.of_one(event.data), "application/json")
        )
        return self._output(self.http.post("", raw, {**headers, "Content-Type": kind}))

    def _part(self, event: Event) -> Any:
        """Return what stands for *event* in a batch."""
        if self._body is not None:
            return self._body.part(event.data)
        if self._envelope == "structured":
            return _structured(event)
        raw, kind = _raw(event)
        if not is_json(kind):
            raise ModelFailure(
                f"data of media type {kind} cannot be part of a JSON list",
                reason="invalid_input",
                permanent=True,
            )
        return raw

    def _output(self, answer: Answer) -> Any:
        if not answer.body.strip():
            return None
        value = answer.json()
        self._refuse_error(answer, value)
        for depth, step in enumerate(self._path):
            value = _inside(answer, value, step, ".".join(self._path[: depth + 1]))
        return value

    def _item(self, answer: Answer, value: Any) -> Any:
        self._refuse_error(answer, value)
        return value

    def _refuse_error(self, answer: Answer, value: Any) -> None:
        if (said := error_in(value, self._error_field)) is not None:
            raise _said_error(answer, said)


class _KServeEndpoint(HttpEndpoint):
    def __init__(self, http: Http, options: Mapping[str, Any]) -> None:
        super().__init__(http)
        self.batches = options.get("batch", True)

    def call(self, events: Sequence[Event]) -> Sequence[Any]:
        parts = [
            _in_place(lambda event: plain_text(event.data, binary=base64_object), event)
            for event in events
        ]
        good = [part for part in parts if isinstance(part, bytes)]
        if not good:
            return parts
        answer = self.http.post("", b'{"instances":[' + b",".join(good) + b"]}")
        outputs = iter(_predictions(answer, len(good)))
        return [next(outputs) if isinstance(part, bytes) else part for part in parts]


class _MlflowEndpoint(HttpEndpoint):
    def __init__(self, http: Http, options: Mapping[str, Any]) -> None:
        super().__init__(http)
        self.batches = options.get("batch", True)
        self._params = {"params": options["params"]} if options.get("params") else {}
        self._columns: list[str] | None = options.get("columns")
        self._datetimes: frozenset[str] = frozenset()

    def call(self, events: Sequence[Event]) -> Sequence[Any]:
        rows = [_in_place(self._row, event) for event in events]
        outputs: list[Any] = list(rows)
        for numbers in _alike(rows):
            try:
                answers = self._call([rows[number] for number in numbers])
            except ModelFailure as failure:
                if failure.whole or len(numbers) > 1:
                    raise
                answers = [failure]
            for number, answer in zip(numbers, answers, strict=True):
                outputs[number] = answer
        return outputs

    def _row(self, event: Event) -> Any:
        """Return what is sent of *event*; of a record the columns that were named."""
        row = plain(event.data, binary=base64_text, nan_is_null=True)
        if self._columns is None or not isinstance(row, dict):
            return row
        if missing := [name for name in self._columns if name not in row]:
            raise ModelFailure(
                f"the event has no {short(', '.join(map(repr, missing)), 200)}, which option"
                " columns names",
                reason="invalid_input",
                permanent=True,
            )
        return {name: row[name] for name in self._columns}

    def _call(self, rows: Sequence[Any]) -> Sequence[Any]:
        """Return the predictions for *rows*, all records with the same columns, or none of them a
        record.
        """
        try:
            return self._predicted(rows)
        except ModelFailure as failure:
            if (found := _times_in(f"{failure} {failure.detail}")) <= self._datetimes:
                raise
            self._datetimes |= found
        return self._predicted(rows)

    def _predicted(self, rows: Sequence[Any]) -> Sequence[Any]:
        body: dict[str, Any] = {"inputs": rows}
        if isinstance(rows[0], dict):
            columns = list(rows[0])
            data = [
                [in_utc(row[name]) if name in self._datetimes else row[name] for name in columns]
                for row in rows
            ]
            body = {"dataframe_split": {"columns": columns, "data": data}}
        answer = self.http.post(
            "",
            json.dumps(
                {**body, **self._params}, ensure_ascii=False, separators=(",", ":")
            ).encode(),
        )
        return _predictions(answer, len(rows))


def _alike(rows: Sequence[Any]) -> Iterator[list[int]]:
    """Yield the numbers of the *rows* that are one table, or one array, without a change of any;
    what is an exception is in none.
    """
    groups: dict[Any, list[int]] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, BaseException):
            alike = (
                tuple((name, kinds_in(value)) for name, value in row.items())
                if isinstance(row, dict)
                else kinds_in(row)
            )
            groups.setdefault(alike, []).append(number)
    yield from groups.values()


def _times_in(refused: str) -> frozenset[str]:
    """Return the columns of times that MLflow's server names when it refuses a table for how a time
    is written.
    """
    schema = _TIMES.findall(refused) if "timezone-naive" in refused else []
    return frozenset([*schema, *_NO_TIME.findall(refused)])


def _predictions(answer: Answer, count: int) -> Sequence[Any]:
    value = answer.json()
    if not isinstance(value, dict) or "predictions" not in value:
        said = error_in(value, None)
        raise answer.failure("without predictions") if said is None else _said_error(answer, said)
    predictions = value["predictions"]
    if count == 1 and not isinstance(predictions, list):
        return [predictions]
    return one_each(answer, predictions, count, "predictions")


def error_in(value: Any, field: str | None) -> Any:
    """Return the error that an answer with status 200 holds, ``None`` when it holds none; the rule
    is that of :class:`JsonHttp`.
    """
    if not isinstance(value, dict) or field == "":
        return None
    if field is not None:
        return value.get(field) or None
    error = value.get("error")
    alone = all(re.sub(r"[^a-z]", "", name.lower()) in _COMPANIONS for name in value)
    return error if error and isinstance(error, (str, dict)) and alone else None


def _said_error(answer: Answer, said: Any) -> ModelFailure:
    return answer.failure(
        f"with an error: {said_in({'error': said}) or short(said, 200)}", reason="model_http_error"
    )


def _inside(answer: Answer, value: Any, step: str, path: str) -> Any:
    if isinstance(value, dict) and step in value:
        return value[step]
    if isinstance(value, list) and step.isdecimal() and int(step[:9]) < len(value):
        return value[int(step)]
    known = f"; there is {', '.join(map(repr, list(value)[:8]))}" if isinstance(value, dict) else ""
    raise answer.failure(
        f"without {short(path)!r}, where the option answer looks{short(known, 200)}"
    )


def _raw(event: Event) -> tuple[bytes, str]:
    """Return the data of *event* as bytes, and their media type."""
    try:
        raw, kind = encode_data(event, _UNLIMITED)
    except (InvalidEvent, NotEncodable) as error:
        raise ModelFailure(
            f"the data cannot be sent: {error}", reason="invalid_input", permanent=True
        ) from error
    kind = kind or "application/json"
    return raw, kind if kind.isascii() and kind.isprintable() else "application/octet-stream"


def _structured(event: Event) -> bytes:
    try:
        return event.to_json().encode()
    except (InvalidEvent, NotEncodable, ValueError) as error:
        raise ModelFailure(
            f"the event has no JSON form: {error}", reason="invalid_input", permanent=True
        ) from error


def _in_place(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what *function* returns, or the failure of this event alone; what fails all of them is
    raised.
    """
    try:
        return function(*arguments)
    except ModelFailure as failure:
        if failure.whole:
            raise
        return failure
