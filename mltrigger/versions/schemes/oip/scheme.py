"""The Open Inference Protocol v2 (KServe, MLServer, Triton, Seldon):
``oip+http://host/v2/models/ocr/versions/2``.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import threading
import time
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from semver import Version

from mltrigger.errors import InvalidModel, InvalidName, ModelFailure
from mltrigger.event.event import Event
from mltrigger.names import check_model_name
from mltrigger.text import short
from mltrigger.versions.address import Address
from mltrigger.versions.scheme import HOLD_S, Description, Endpoint, Scheme, Setting
from mltrigger.versions.schemes.http.answers import masked
from mltrigger.versions.schemes.http.client import (
    Http,
    HttpEndpoint,
    base_url,
    checked_http,
    default_name,
    default_version,
)
from mltrigger.versions.schemes.oip.answers import outputs
from mltrigger.versions.schemes.oip.datatypes import DATATYPES
from mltrigger.versions.schemes.oip.tensors import Layout, Part, Tensor

REFRESH_S = 5.0
"""The server is not asked more often whether its model takes other tensors now."""
_PATH = re.compile(r"(?:/[^/]+)*/v2/models/([^/]+)(?:/versions/([^/]+))?")
_CONTENT_TYPES = ("pd", "np")
_MISSING = ("refuse", "null")


class OpenInference(Scheme):
    """``oip+http(s)://host[:port]/v2/models/NAME[/versions/V]``: a server of the Open Inference
    Protocol v2.

    What the model takes is asked of the server (its metadata), before the first call and again when
    it refuses one. An event's data is an object with a field for each input, or, for a model with
    one input, its value: a list of numbers for the shape ``[-1, n]``. When the first dimension of
    every input is -1 it counts the events, and a batch is one call; else each event is a call of
    its own. Events whose other dimensions differ go into different calls. The output of an event is
    an object, output name -> value, also when there is one output; a value of one element is a
    scalar, others are nested lists.

    Values are checked and converted exactly: 3.0 is an integer, 1.5 is none, 300 does not fit
    UINT8, and such an event fails alone, with the reason ``invalid_input``. An answer is checked
    likewise: all outputs that the metadata name, with data of their datatype and shape. Another one
    is a failure, ``bad_model_response``. Only JSON is spoken, without the binary extension. It has
    no NaN and no infinity: both are refused, or with ``missing="null"`` a NaN is sent as null; null
    in an output of floating-point numbers is NaN. The id of an event is the id of its request, when
    it is alone in it and ASCII.

    Servers answer 500 also to an input that a model does not like, and say no more; so a batch that
    is answered 500 is split.

    Options
    -------
    columns : list of str
        For one input of the shape ``[-1, n]``: the fields of a record that make up its row, in
        their order.
    outputs : list of str
        The outputs to ask for; by default those that the server chooses, which must be all that its
        metadata name.
    content_type : str
        ``pd`` or ``np``: how MLServer shall hand the request to the model, as a DataFrame with a
        column for each input, or as an array.
    inputs : list of dict
        The tensors, for a server that does not tell: ``[{"name": "x", "datatype": "FP64", "shape":
        [-1, 4]}]``. It is not asked then.
    missing : str
        ``refuse`` (default), or ``null``: None and NaN in inputs of floating-point numbers are sent
        as null, which MLServer takes for NaN.
    batched : bool
        ``False`` for a model whose first dimension does not count events, although it is -1.
    headers, max_answer_mb, connect_timeout_s
        As for every model behind HTTP.
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
        return OipEndpoint(Http.of(url, setting, options), options)


class OipEndpoint(HttpEndpoint):
    """One model, or version of it, on one server; thread-safe."""

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
        """Ask the server what the model takes.

        Raises
        ------
        ModelFailure
            When it does not answer, has no such model, or one that takes something else than the
            options say.
        """
        self.batches = self._known().batches

    def call(self, events: Sequence[Event]) -> Sequence[Any]:
        """See :meth:`Endpoint.call`; when the server fails between calls, its failure is in the
        place of the events that are left.
        """
        layout = self._known()
        answers = [_tried(layout, event) for event in events]
        if (
            any(isinstance(answer, ModelFailure) for answer in answers)
            and (fresh := self._refreshed(layout)) is not None
        ):
            layout, answers = fresh, [_tried(fresh, event) for event in events]
        groups = _alike(answers, layout.batches)
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
        """Return the outputs of one call; when the server refuses it and says that its model takes
        something else now, of the next.
        """
        alone = {"id": events[0].id} if len(events) == 1 and events[0].id.isascii() else {}
        try:
            answer = self.http.post(
                f"{self.http.url}/infer", {**alone, **self._more, "inputs": layout.request(parts)}
            )
        except ModelFailure as failure:
            broke = failure.kind == "HTTP 500"  # perhaps by one event, and not the server's fault
            refused = broke or failure.reason == "model_rejected"
            if not refused or self._refreshed(layout) is None:
                raise
            return self.call(events)  # once: the server is not asked again so soon
        return outputs(answer, len(events) if layout.batches else None, layout.outputs)

    def _known(self) -> Layout:
        if (layout := self._layout) is None:
            with self._guard:
                layout = self._layout = self._layout or self._told()
        return layout

    def _refreshed(self, layout: Layout) -> Layout | None:
        """Return how events become tensors now, ``None`` when that is still *layout*, as far as can
        be told.
        """
        with self._guard:
            if self._layout is not layout:
                return self._layout
            now = time.monotonic()
            if self._inputs is not None or now - self._asked_at < REFRESH_S:
                return None
            self._asked_at = now
            try:
                fresh = self._told()
            except ModelFailure:  # what the server refused says more
                return None
            if fresh == layout:
                return None
            self._layout = fresh
            return fresh

    def _told(self) -> Layout:
        """Return what the options or the server say of the inputs."""
        inputs, named, answer = self._inputs, None, None
        if inputs is None:
            try:
                answer = self.http.get()
                told = answer.json()
            except ModelFailure as failure:
                # not there, not there yet, or not for us: that is no event's doing
                if failure.reason == "model_rejected":
                    failure.reason, failure.permanent, failure.throttled, failure.delay_s = (
                        "model_unavailable",
                        False,
                        True,
                        HOLD_S,
                    )
                failure.whole = True
                raise
            inputs, named = (
                (told.get("inputs"), told.get("outputs"))
                if isinstance(told, Mapping)
                else (None, None)
            )
        try:
            layout = _layout(inputs, self._columns, self._batched, self._nulls)
            return dataclasses.replace(layout, outputs=_outputs(named, self._wanted))
        except InvalidModel as error:
            text = masked(f"{self.http.url}: {error}", answer.secrets if answer is not None else ())
            raise ModelFailure(
                text, reason="model_unavailable", whole=True, kind="InvalidModel"
            ) from error


def _layout(inputs: Any, columns: tuple[str, ...] | None, batched: bool, nulls: bool) -> Layout:
    """Return the layout of the tensors that metadata or the option ``inputs`` describe."""
    if not isinstance(inputs, list) or not inputs:
        raise InvalidModel(
            "the server does not tell which inputs the model takes; name them: inputs=[{'name':"
            " 'x', 'datatype': 'FP64', 'shape': [-1, 4]}], or put them into the model's settings"
            " there"
        )
    return Layout(tuple(map(Tensor.of, inputs)), columns, batched, nulls)


def _outputs(named: Any, wanted: Sequence[str] | None) -> tuple[tuple[str, str | None], ...]:
    """Return the outputs that an answer must have: the *wanted* ones, else all that metadata name;
    each with its datatype, if told.
    """
    known: dict[str, str | None] = {}
    for given in named if isinstance(named, list) else ():
        name, datatype = (
            (given.get("name"), given.get("datatype"))
            if isinstance(given, Mapping)
            else (None, None)
        )
        if isinstance(name, str) and name:
            known[name] = datatype if datatype in DATATYPES else None
    return tuple((name, known.get(name)) for name in (known if wanted is None else wanted))


def _read(address: Address) -> tuple[str, str, str | None]:
    """Return the URL of the model without the prefix, its name and its version."""
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
    for name, known in (("content_type", _CONTENT_TYPES), ("missing", _MISSING)):
        if name in options and options[name] not in known:
            raise InvalidModel(
                f"model {shown!r}: option {name} must be one of {', '.join(known)}; got"
                f" {options[name]!r}"
            )
    for name in ("columns", "outputs"):
        if name in options and not (
            options[name] and all(isinstance(each, str) and each for each in options[name])
        ):
            raise InvalidModel(
                f"model {shown!r}: option {name} must be a list of names, got"
                f" {short(options[name])}"
            )
    if "columns" in options and len(set(options["columns"])) < len(options["columns"]):
        raise InvalidModel(
            f"model {shown!r}: option columns names a field twice: {short(options['columns'])}"
        )
    if "inputs" in options:
        columns = tuple(options["columns"]) if "columns" in options else None
        try:
            _layout(options["inputs"], columns, options.get("batched", True), False)
        except InvalidModel as error:
            raise InvalidModel(f"model {shown!r}: option inputs: {error}") from None
    return options


def _tried(layout: Layout, event: Event) -> Any:
    """Return the tensors of *event*, or why it has none."""
    try:
        return layout.parts(event.data)
    except ModelFailure as failure:
        return failure


def _alike(parts: Iterable[Any], batches: bool) -> list[list[int]]:
    """Return the numbers of the events that go into one call: those whose tensors have the same
    shapes. What failed is in none.
    """
    groups: dict[Any, list[int]] = {}
    for number, part in enumerate(parts):
        if not isinstance(part, ModelFailure):
            groups.setdefault(tuple(shape for shape, _ in part) if batches else number, []).append(
                number
            )
    return list(groups.values())
