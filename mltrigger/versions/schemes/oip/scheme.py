"""Servers of the Open Inference Protocol v2: KServe, MLServer, Triton, Seldon.

An address is ``oip+http://host/v2/models/ocr/versions/2``.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import threading
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from semver import Version

from mltrigger.errors import InvalidModel, InvalidName, ModelFailure
from mltrigger.event.event import Event
from mltrigger.names import check_model_name
from mltrigger.text import short
from mltrigger.versions.address import Address
from mltrigger.versions.scheme import Description, Endpoint, Scheme, Setting
from mltrigger.versions.schemes.failures import attempt, unavailable
from mltrigger.versions.schemes.http.client import Http
from mltrigger.versions.schemes.http.endpoint import HttpEndpoint
from mltrigger.versions.schemes.http.saying import masked
from mltrigger.versions.schemes.http.targets import (
    base_url,
    checked_http,
    default_name,
    default_version,
)
from mltrigger.versions.schemes.oip.answers import outputs
from mltrigger.versions.schemes.oip.datatypes import DATATYPES
from mltrigger.versions.schemes.oip.tensors import Layout, Part, Tensor
from mltrigger.versions.schemes.options import check_choice, check_different, check_names

REFRESH_S = 5.0
"""Shortest time between two questions about the model's inputs, in seconds."""
_PATH = re.compile(r"(?:/[^/]+)*/v2/models/([^/]+)(?:/versions/([^/]+))?")
_CONTENT_TYPES = ("pd", "np")
_MISSING = ("refuse", "null")


class OpenInference(Scheme):
    """``oip+http(s)://host[:port]/v2/models/NAME[/versions/V]``: Open Inference Protocol v2.

    The server is asked for the model's metadata before the first call, and again after it refused
    one. An event's data is an object with a field for each input. For a model with one input it may
    be the value: a list of numbers for the shape ``[-1, n]``. If the first dimension of every input
    is -1, it counts the events, and a batch is one call. Otherwise each event is a call of its own.
    Events whose other dimensions differ go into different calls. The output of an event is an
    object, output name -> value. A value of one element is a scalar, others are nested lists.

    Values are checked and converted exactly. 3.0 is an integer, 1.5 is not, and 300 does not fit
    UINT8. Such an event fails alone, with the reason ``invalid_input``. An answer must have all
    outputs of the metadata, with data of their datatype and shape. Any other answer is a failure,
    ``bad_model_response``.

    Requests and answers are JSON, without the binary extension. JSON has no NaN and no infinity, so
    both are refused. With ``missing="null"`` NaN is sent as null. Null in an output of
    floating-point numbers is NaN. The id of an event is the id of its request, if it is alone there
    and ASCII.

    Many servers answer 500 to an input that the model does not like. So a batch with the answer 500
    is split.

    Options
    -------
    columns : list of str
        For one input of the shape ``[-1, n]``: the fields of a record that make up its row, in
        their order.
    outputs : list of str
        The outputs to ask for. Default: those that the server chooses, which must be all outputs of
        its metadata.
    content_type : str
        How MLServer passes the request to the model. ``pd``: as a DataFrame with a column for each
        input. ``np``: as an array.
    inputs : list of dict
        The inputs, for a server without metadata: ``[{"name": "x", "datatype": "FP64", "shape":
        [-1, 4]}]``. Then the server is not asked.
    missing : str
        ``refuse`` (default), or ``null``: None and NaN in inputs of floating-point numbers are sent
        as null, which MLServer reads as NaN.
    batched : bool
        ``False`` for a model whose first dimension does not count events, although it is -1.
    headers, max_answer_mb, connect_timeout_s
        As for :class:`~mltrigger.versions.schemes.http.json_http.JsonHttp`.
    """

    def describe(self, address: Address) -> Description:
        """See :meth:`Scheme.describe`."""
        url, name, version = _read(address)
        _options(address)
        return Description(name, version, about=f"Open Inference Protocol: {url}"[:200])

    def open(self, address: Address, setting: Setting) -> Endpoint:
        """See :meth:`Scheme.open`."""
        url, _, _ = _read(address)
        options = _options(address)
        return OipEndpoint(Http(url, setting, options), options)


class OipEndpoint(HttpEndpoint):
    """One model, or one version of it, on one server. Thread-safe."""

    batches = True

    def __init__(self, http: Http, options: Mapping[str, Any]) -> None:
        super().__init__(http)
        self._batched, self._nulls = options.get("batched", True), options.get("missing") == "null"
        self._more: dict[str, Any] = {}
        if "content_type" in options:
            self._more["parameters"] = {"content_type": options["content_type"]}
        if "outputs" in options:
            self._more["outputs"] = [{"name": name} for name in options["outputs"]]
        self._inputs: list[Any] | None = options.get("inputs")
        self._wanted: list[str] | None = options.get("outputs")
        self._columns = tuple(options["columns"]) if "columns" in options else None
        self._guard = threading.Lock()
        self._layout: Layout | None = None
        self._asked_at = float("-inf")

    def warm_up(self) -> None:
        """Ask the server for the inputs of the model.

        Raises
        ------
        ModelFailure
            When it does not answer, has no such model, or the inputs contradict the options.
        """
        self.batches = self._known().batches

    def call(self, events: Sequence[Event]) -> Sequence[Any]:
        """See :meth:`Endpoint.call`. A server that fails between calls fails the events left."""
        layout = self._known()
        answers = [attempt(layout.parts, event.data) for event in events]
        if (
            any(isinstance(answer, ModelFailure) for answer in answers)
            and (fresh := self._refreshed(layout)) is not None
        ):
            layout, answers = fresh, [attempt(fresh.parts, event.data) for event in events]
        groups = layout.groups(answers)
        for done, numbers in enumerate(groups):
            try:
                found: Sequence[Any] = self._asked(
                    layout, [events[n] for n in numbers], [answers[n] for n in numbers]
                )
            except ModelFailure as failure:
                if len(groups) == 1 or (len(numbers) > 1 and not failure.whole):
                    raise
                if failure.whole:
                    numbers = list(itertools.chain(*groups[done:]))
                found = [failure] * len(numbers)
            for number, output in zip(numbers, found, strict=True):
                answers[number] = output
            if len(numbers) > len(groups[done]):
                break
        return answers

    def _asked(
        self, layout: Layout, events: Sequence[Event], parts: Sequence[tuple[Part, ...]]
    ) -> Sequence[Any]:
        """Return the outputs of one call.

        If the server refuses it, and the model has other inputs now, the call is repeated once.
        """
        alone = {"id": events[0].id} if len(events) == 1 and events[0].id.isascii() else {}
        try:
            answer = self.http.post(
                f"{self.http.url}/infer", {**alone, **self._more, "inputs": layout.request(parts)}
            )
        except ModelFailure as failure:
            broke = failure.kind == "HTTP 500"  # perhaps one event was the cause
            refused = broke or failure.reason == "model_rejected"
            if not refused or self._refreshed(layout) is None:
                raise
            return self.call(events)  # once: _refreshed does not ask again so soon
        return outputs(answer, len(events) if layout.batches else None, layout.outputs)

    def _known(self) -> Layout:
        if (layout := self._layout) is None:
            with self._guard:
                layout = self._layout = self._layout or self._told()
        return layout

    def _refreshed(self, layout: Layout) -> Layout | None:
        """Return the new layout, ``None`` if it is still *layout* or cannot be known."""
        with self._guard:
            if self._layout is not layout:
                return self._layout
            now = time.monotonic()
            if self._inputs is not None or now - self._asked_at < REFRESH_S:
                return None
            self._asked_at = now
            try:
                fresh = self._told()
            except ModelFailure:  # the refusal of the call tells more
                return None
            if fresh == layout:
                return None
            self._layout = fresh
            return fresh

    def _told(self) -> Layout:
        """Return the layout that the options or the server tell."""
        told: Mapping[str, Any] = {"inputs": self._inputs}
        secrets: Sequence[str] = ()
        if self._inputs is None:
            told, secrets = self._metadata()
        try:
            layout = _layout(told.get("inputs"), self._columns, self._batched, self._nulls)
            return dataclasses.replace(layout, outputs=_outputs(told.get("outputs"), self._wanted))
        except InvalidModel as error:
            raise ModelFailure(
                masked(f"{self.http.url}: {error}", secrets),
                reason="model_unavailable",
                whole=True,
                kind="InvalidModel",
            ) from error

    def _metadata(self) -> tuple[Mapping[str, Any], Sequence[str]]:
        """Ask the server. Return its metadata, and the secrets that were sent."""
        try:
            answer = self.http.get()
            told = answer.json()
        except ModelFailure as failure:
            if failure.reason == "model_rejected":  # no event can help
                raise unavailable(
                    str(failure), failure.kind or "Refused", detail=failure.detail
                ) from failure
            failure.whole = True
            raise
        return told if isinstance(told, Mapping) else {}, answer.secrets


def _layout(inputs: Any, columns: tuple[str, ...] | None, batched: bool, nulls: bool) -> Layout:
    """Return the layout for the inputs of the metadata or of the option ``inputs``."""
    if not isinstance(inputs, list) or not inputs:
        raise InvalidModel(
            "the server does not tell which inputs the model takes; name them: inputs=[{'name':"
            " 'x', 'datatype': 'FP64', 'shape': [-1, 4]}], or put them into the model's settings"
            " there"
        )
    return Layout(tuple(map(Tensor.of, inputs)), columns, batched, nulls)


def _outputs(named: Any, wanted: Sequence[str] | None) -> tuple[tuple[str, str | None], ...]:
    """Return the outputs that an answer must have, each name with its datatype, if known.

    They are the *wanted* ones, else all outputs of the metadata, *named*.
    """
    known: dict[str, str | None] = {}
    for given in named if isinstance(named, list) else ():
        name = given.get("name") if isinstance(given, Mapping) else None
        if isinstance(name, str) and name:
            known[name] = given["datatype"] if given.get("datatype") in DATATYPES else None
    return tuple((name, known.get(name)) for name in (known if wanted is None else wanted))


def _read(address: Address) -> tuple[str, str, str | None]:
    """Return the URL without ``oip+``, the name and the version of the model."""
    url = base_url(address, "oip+")
    parts = urllib.parse.urlsplit(url)
    path = parts.path.rstrip("/")
    found = _PATH.fullmatch(path)
    if found is None or parts.query:
        wanted = (
            re.sub(r"/(infer|ready)$", "", path)
            if path.endswith(("/infer", "/ready"))
            else "/v2/models/NAME/versions/2"
        )
        raise InvalidModel(
            f"model {short(address.text, 200)!r}: write oip+{parts.scheme}://{parts.netloc}{wanted}"
        )
    name = urllib.parse.unquote(found[1])
    try:
        check_model_name(name)
    except InvalidName:
        name = default_name(url)
    named = urllib.parse.unquote(found[2] or "").removeprefix("v")
    version = named if Version.is_valid(named) else default_version(f"http://host/versions/{named}")
    return f"{parts.scheme}://{parts.netloc}{path}", name, version


def _options(address: Address) -> dict[str, Any]:
    options = checked_http(
        address,
        inputs=list,
        columns=list,
        outputs=list,
        content_type=str,
        missing=str,
        batched=bool,
    )
    shown = short(address.text, 200)
    check_choice(shown, options, "content_type", _CONTENT_TYPES)
    check_choice(shown, options, "missing", _MISSING)
    check_names(shown, options, "columns", "outputs")
    check_different(shown, options, "columns")
    if "inputs" in options:
        columns = tuple(options["columns"]) if "columns" in options else None
        try:
            _layout(options["inputs"], columns, options.get("batched", True), False)
        except InvalidModel as error:
            raise InvalidModel(f"model {shown!r}: option inputs: {error}") from None
    return options
