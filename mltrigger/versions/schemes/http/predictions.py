"""Models behind KServe v1, TensorFlow Serving and MLflow's scoring server."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from mltrigger.errors import InvalidModel, ModelFailure
from mltrigger.event.event import Event
from mltrigger.text import short
from mltrigger.versions.address import Address
from mltrigger.versions.running.predictors.feeds import kinds_in
from mltrigger.versions.scheme import Description, Endpoint, Scheme, Setting
from mltrigger.versions.schemes.failures import attempt, in_one_call, unfit
from mltrigger.versions.schemes.http.answers import Answer
from mltrigger.versions.schemes.http.client import Http
from mltrigger.versions.schemes.http.endpoint import HttpEndpoint
from mltrigger.versions.schemes.http.saying import error_in
from mltrigger.versions.schemes.http.targets import base_url, checked_http, described
from mltrigger.versions.schemes.options import check_different, check_names
from mltrigger.versions.schemes.plain import (
    base64_object,
    base64_text,
    dumped,
    in_utc,
    plain,
    plain_text,
)

_PATH = re.compile(r"((?:/[^/:?]+)*/models/[^/:?]+(?:/versions/[^/:?]+)?)(:[A-Za-z]+)?")
_TIMES = re.compile(r"'((?:[^'\\]|\\.)*)': datetime")
"""A column of times in the schema that the server quotes when it refuses a table."""
_NO_TIME = re.compile(r"Failed to convert column (.+?) to type 'datetime64")


class KServe(Scheme):
    """``kserve+http(s)://host/v1/models/NAME:predict``: KServe v1 and TensorFlow Serving.

    The events' data are the ``instances``, one call for a batch. The ``predictions`` are the
    outputs. An address without a verb means ``:predict``. Bytes are sent as ``{"b64": …}``. NaN is
    refused, since the protocol has none.

    Options
    -------
    batch : bool
        Whether several events are one call. Default: ``True``.
    headers, max_answer_mb, connect_timeout_s
        As for :class:`~mltrigger.versions.schemes.http.json_http.JsonHttp`.
    """

    def describe(self, address: Address) -> Description:
        """See :meth:`Scheme.describe`."""
        url = _url(address)
        checked_http(address, batch=bool)
        return described(url, "KServe v1")

    def open(self, address: Address, setting: Setting) -> Endpoint:
        """See :meth:`Scheme.open`."""
        options = address.options
        return _KServeEndpoint(Http(_url(address), setting, options), options)


def _url(address: Address) -> str:
    url = base_url(address, "kserve+")
    parts = urllib.parse.urlsplit(url)
    if (found := _PATH.fullmatch(parts.path)) is None:
        raise InvalidModel(
            f"model {short(url)!r}: write"
            f" kserve+{parts.scheme}://{parts.netloc}/v1/models/NAME:predict"
        )
    return urllib.parse.urlunsplit(parts._replace(path=found[1] + (found[2] or ":predict")))


class _KServeEndpoint(HttpEndpoint):
    def __init__(self, http: Http, options: Mapping[str, Any]) -> None:
        super().__init__(http)
        self.batches = options.get("batch", True)

    def call(self, events: Sequence[Event]) -> Sequence[Any]:
        return in_one_call([attempt(_instance, event) for event in events], self._asked)

    def _asked(self, instances: Sequence[bytes]) -> Sequence[Any]:
        answer = self.http.post("", b'{"instances":[' + b",".join(instances) + b"]}")
        return _predictions(answer, len(instances))


def _instance(event: Event) -> bytes:
    return plain_text(event.data, binary=base64_object)


class MlflowServer(Scheme):
    """``mlflow+http(s)://host/invocations``: the scoring server of ``mlflow models serve``.

    Records are sent as ``dataframe_split``, one row an event. Other data are sent as ``inputs``.
    The ``predictions`` are the outputs. Each event of a batch gets the same as alone. So
    events with other columns, another order of them, or values of other types are other calls. NaN
    is ``null``, as pandas writes it. Bytes are base64.

    The server reads times only in UTC, without a zone, and all in one form. It names the columns of
    times when it refuses the first table. From then on they are sent in that form.

    Options
    -------
    columns : list of str
        The fields of a record to send, in their order. A model with a signature needs none: its
        server finds columns by their names. Any other model needs them, since the fields of an
        event have no fixed order.
    params : dict
        Sent with every call, as ``params`` of the model's signature.
    batch : bool
        Whether several events are one call. Default: ``True``.
    headers, max_answer_mb, connect_timeout_s
        As for :class:`~mltrigger.versions.schemes.http.json_http.JsonHttp`.
    """

    def describe(self, address: Address) -> Description:
        """See :meth:`Scheme.describe`."""
        url = base_url(address, "mlflow+")
        options = checked_http(address, params=dict, batch=bool, columns=list)
        check_names(short(url), options, "columns")
        check_different(short(url), options, "columns")
        return described(url, "MLflow scoring server")

    def open(self, address: Address, setting: Setting) -> Endpoint:
        """See :meth:`Scheme.open`."""
        parts = urllib.parse.urlsplit(base_url(address, "mlflow+"))
        path = parts.path if parts.path.strip("/") else "/invocations"
        url = urllib.parse.urlunsplit(parts._replace(path=path))
        return _MlflowEndpoint(Http(url, setting, address.options), address.options)


class _MlflowEndpoint(HttpEndpoint):
    def __init__(self, http: Http, options: Mapping[str, Any]) -> None:
        super().__init__(http)
        self.batches = options.get("batch", True)
        self._params = {"params": options["params"]} if options.get("params") else {}
        self._columns: list[str] | None = options.get("columns")
        self._datetimes: frozenset[str] = frozenset()

    def call(self, events: Sequence[Event]) -> Sequence[Any]:
        rows = [attempt(self._row, event) for event in events]
        outputs: list[Any] = list(rows)
        for numbers in _alike(rows):
            try:
                answers = self._asked([rows[number] for number in numbers])
            except ModelFailure as failure:
                if failure.whole or len(numbers) > 1:
                    raise
                answers = [failure]
            for number, answer in zip(numbers, answers, strict=True):
                outputs[number] = answer
        return outputs

    def _row(self, event: Event) -> Any:
        """Return the plain data of *event*. A record has only the columns of the option."""
        row = plain(event.data, binary=base64_text, nan_is_null=True)
        if self._columns is None or not isinstance(row, dict):
            return row
        if missing := [name for name in self._columns if name not in row]:
            names = short(", ".join(map(repr, missing)), 200)
            raise unfit(f"the event has no {names}, which option columns names")
        return {name: row[name] for name in self._columns}

    def _asked(self, rows: Sequence[Any]) -> Sequence[Any]:
        """Return the predictions for *rows* of one kind. See :func:`_alike`."""
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
        answer = self.http.post("", dumped({**body, **self._params}))
        return _predictions(answer, len(rows))


def _alike(rows: Sequence[Any]) -> list[list[int]]:
    """Return the numbers of the *rows* that fit into one table or array without a change.

    Failures are in no group.
    """
    groups: dict[Any, list[int]] = {}
    for number, row in enumerate(rows):
        if isinstance(row, ModelFailure):
            continue
        kinds: Any = kinds_in(row)
        if isinstance(row, dict):
            kinds = tuple((name, kinds_in(value)) for name, value in row.items())
        groups.setdefault(kinds, []).append(number)
    return list(groups.values())


def _times_in(refused: str) -> frozenset[str]:
    """Return the columns of times that the server names when it refuses the form of a time."""
    schema = _TIMES.findall(refused) if "timezone-naive" in refused else []
    return frozenset([*schema, *_NO_TIME.findall(refused)])


def _predictions(answer: Answer, count: int) -> Sequence[Any]:
    """Return the ``predictions`` of an answer for *count* events, or raise the error in it."""
    value = answer.json()
    if not isinstance(value, dict) or "predictions" not in value:
        said = error_in(value)
        raise answer.failure("without predictions") if said is None else answer.error(said)
    found = value["predictions"]
    if count == 1 and not isinstance(found, list):
        return [found]
    return answer.one_each(found, count, "predictions")
