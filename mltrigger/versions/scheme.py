"""The protocol of a scheme: how models at addresses of one kind are described, and called.

A package adds a scheme with an entry point of the group ``mltrigger.models`` whose name is the
scheme and whose value is a :class:`Scheme`, as a class or an object::

    [options.entry_points]
    mltrigger.models =
        grpc = my_package.grpc_models:GrpcScheme

From then on ``mt.subscribe("documents", "grpc://host/ocr")`` works, with versions, batches,
timeouts, retries and frames as for any other model. What a scheme has to do is small: check an
address, and open an :class:`Endpoint` for it, whose ``call`` answers for events.
"""

from __future__ import annotations

import abc
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mltrigger.errors import InvalidModel
from mltrigger.event.event import Event
from mltrigger.names import Adapters
from mltrigger.versions.address import Address

HOLD_S = 30.0
"""How long a listener holds back when no call can work, whichever the event; then it looks again."""


@dataclasses.dataclass(frozen=True, slots=True)
class Description:
    """What can be said of an address without asking anybody else.

    Parameters
    ----------
    name : str
        What the model is called unless the user says otherwise.
    version : str, optional
        A semantic version, when the address itself names one (``…/versions/2`` is ``2.0.0``).
    content : str
        A fingerprint of what lies behind the address, where that is a file here: its SHA-256. A
        version is immutable; other content is another version.
    about : str, optional
        One line for ``bus.models()``.
    input_schema, output_schema : mapping, optional
        JSON Schemas of one event's data and of one output, when the format tells them.
    alias : str, optional
        The alias that the address follows, when it means another version tomorrow; see
        :meth:`Scheme.pin`.
    """

    name: str
    version: str | None = None
    content: str = ""
    about: str | None = None
    input_schema: Mapping[str, Any] | None = None
    output_schema: Mapping[str, Any] | None = None
    alias: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """What a listener agreed on that an endpoint has to know.

    Parameters
    ----------
    timeout_s : float
        Longest run of one call. An endpoint gives up by then and raises ``TimeoutError`` or a
        ``ModelFailure`` with reason ``timeout``, so that nothing stays behind; what it does not
        notice, the listener does.
    concurrency : int
        Calls at the same time: ``call`` is called from this many threads.
    processes : int
        Processes that do the same on this machine, as far as is known: one that computes leaves the
        others their cores.
    """

    timeout_s: float = 60.0
    concurrency: int = 1
    processes: int = 1


class Endpoint(abc.ABC):
    """An open connection to one model; used from several threads at once."""

    batches: bool = False
    """Whether one call may have several events."""
    concurrency: int = 1
    """Calls at the same time when the subscription does not say; more than 1 for servers that take
    them.
    """

    @abc.abstractmethod
    def call(self, events: Sequence[Event]) -> Sequence[Any]:
        """Return one output an event, in their order; an exception in the place of what failed
        alone.

        Outputs need a JSON form (:mod:`mltrigger.event.codec`). What it raises fails all *events*:
        a :class:`~mltrigger.errors.ModelFailure` says how; after anything else a batch is split,
        until the bad event is alone. What it prints is kept with the invocation.
        """

    def warm_up(self) -> None:  # noqa: B027 - optional
        """Prepare the first call: connect, load, ask for metadata.

        Called once, before anything is received; may raise.
        """

    def close(self) -> None:  # noqa: B027 - optional
        """Let go of everything; idempotent. No call is under way."""


class Scheme(abc.ABC):
    """One kind of address. It holds no state; everything is in the address."""

    @abc.abstractmethod
    def describe(self, address: Address) -> Description:
        """Check *address* and its options, and return what they say.

        Asks no server; may read files.

        Raises
        ------
        InvalidModel, NotFound
            With what is wrong, and a form that would be right.
        """

    @abc.abstractmethod
    def open(self, address: Address, setting: Setting) -> Endpoint:
        """Return an endpoint for *address*; connecting can wait for ``warm_up`` or the first call."""

    def pin(self, address: Address) -> Address:
        """Return the address of the version that *address* means now; itself, unless its
        description has an ``alias``.
        """
        return address

    def schemas(
        self, address: Address
    ) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
        """Return JSON Schemas of one event's data and of one output, ``None`` for what nobody
        knows; may ask the server.

        Called once, when the model is registered, and only for what the user gave no schema for.
        """
        return None, None


GROUP = "mltrigger.models"
OWN = {
    "oip+http": "versions.schemes.oip.scheme:OpenInference",
    "oip+https": "versions.schemes.oip.scheme:OpenInference",
    "kserve+http": "versions.schemes.http.predictions:KServe",
    "kserve+https": "versions.schemes.http.predictions:KServe",
    "mlflow+http": "versions.schemes.http.predictions:MlflowServer",
    "mlflow+https": "versions.schemes.http.predictions:MlflowServer",
    "http": "versions.schemes.http.json_http:JsonHttp",
    "https": "versions.schemes.http.json_http:JsonHttp",
    "openai+http": "versions.schemes.openai.scheme:OpenAI",
    "openai+https": "versions.schemes.openai.scheme:OpenAI",
    "models": "versions.schemes.mlflow.scheme:MlflowRegistry",
    "arn": "aws.models.arn:AwsArn",
    "sagemaker": "aws.models.arn:SageMaker",
    "command": "versions.schemes.command.scheme:Command",
    "onnx": "versions.schemes.onnx.scheme:Onnx",
}
"""Scheme -> module of this room and class."""
_FORM = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.+)", re.DOTALL)
_VERSION = re.compile(r"latest|\d+(\.\d+){0,2}([-+].*)?")


SCHEMES = Adapters("scheme of models", GROUP, OWN, InvalidModel)


def is_address(text: str) -> bool:
    """Whether *text* names a model by an address, rather than a selector or an import path."""
    found = _FORM.fullmatch(text)
    if found is None or _VERSION.fullmatch(found[2]):
        return False
    return found[2].startswith("/") or found[1].lower() in SCHEMES


def scheme_of(address: Address) -> Scheme:
    """Return the scheme of *address*. A wrong one lists the near ones."""
    found = SCHEMES.load(address.scheme)
    scheme = found() if isinstance(found, type) else found
    if not isinstance(scheme, Scheme):
        raise InvalidModel(
            f"scheme {address.scheme!r}: {type(scheme).__name__} is no mltrigger.schemes.Scheme"
        )
    return scheme
