"""The protocol of a scheme: how models at one kind of address are described and called.

A package adds a scheme by an entry point of the group ``mltrigger.models``. Its name is the scheme.
Its value is a :class:`Scheme`, as a class or an object::

    [options.entry_points]
    mltrigger.models =
        grpc = my_package.grpc_models:GrpcScheme

From then on ``mt.subscribe("documents", "grpc://host/ocr")`` works, with versions, batches,
timeouts, retries and frames as for any model. A scheme has two duties. It checks an address, and
it opens an :class:`Endpoint` whose ``call`` answers for events.
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
"""How long a listener waits when no call can work for any event. Then it looks again."""


@dataclasses.dataclass(frozen=True, slots=True)
class Description:
    """The facts about an address that need no question to a server.

    Parameters
    ----------
    name : str
        The name of the model unless the user gives one.
    version : str, optional
        A semantic version, when the address names one (``…/versions/2`` is ``2.0.0``).
    content : str
        A fingerprint of the file behind the address: its SHA-256. Other content is another version.
    about : str, optional
        One line for ``bus.models()``.
    input_schema, output_schema : mapping, optional
        JSON Schemas of one event's data and of one output, when the format has them.
    alias : str, optional
        The alias that the address follows. It may mean another version tomorrow, see
        :meth:`Scheme.pin`.

    Examples
    --------
    >>> Description("ocr", version="2.0.0").name
    'ocr'
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
    """The settings of a listener that an endpoint has to know.

    Parameters
    ----------
    timeout_s : float
        Longest run of one call. After it an endpoint raises ``TimeoutError``, or a ``ModelFailure``
        with reason ``timeout``, and leaves nothing behind. The listener notices missed timeouts.
    concurrency : int
        Calls at the same time: ``call`` runs in so many threads.
    processes : int
        Known processes with the same work on this machine. They share its cores.

    Examples
    --------
    >>> Setting(timeout_s=5.0, concurrency=8).concurrency
    8
    """

    timeout_s: float = 60.0
    concurrency: int = 1
    processes: int = 1


class Endpoint(abc.ABC):
    """An open connection to one model, used by several threads at once.

    Examples
    --------
    >>> class Echo(Endpoint):
    ...     def call(self, events):
    ...         return [event.data for event in events]
    >>> Echo().call([mt.Event("page")])
    ['page']
    """

    batches: bool = False
    """Whether one call may have several events."""
    concurrency: int = 1
    """The default number of calls at the same time. More than 1 suits servers."""

    @abc.abstractmethod
    def call(self, events: Sequence[Event]) -> Sequence[Any]:
        """Return one output per event, in their order. An exception stands for a single failure.

        Outputs need a JSON form (:mod:`mltrigger.event.codec`). A raised exception fails all
        *events*. A :class:`~mltrigger.errors.ModelFailure` says how. After any other, a batch is
        split until the bad event is alone. Printed text is kept with the invocation.
        """

    def warm_up(self) -> None:  # noqa: B027 - optional
        """Prepare the first call: connect, load, ask for metadata.

        Called once, before anything is received. May raise.
        """

    def close(self) -> None:  # noqa: B027 - optional
        """Release everything. Idempotent. No call is under way."""


class Scheme(abc.ABC):
    """One kind of address. It holds no state, since the address has everything.

    Examples
    --------
    >>> class EchoScheme(Scheme):
    ...     def describe(self, address):
    ...         return Description("echo", version="1.0.0")
    ...
    ...     def open(self, address, setting):
    ...         return Echo()
    >>> EchoScheme().describe("echo://here").name
    'echo'
    """

    @abc.abstractmethod
    def describe(self, address: Address) -> Description:
        """Check *address* and its options, and describe it.

        Asks no server. May read files.

        Raises
        ------
        InvalidModel, NotFound
            With the mistake, and a right form.
        """

    @abc.abstractmethod
    def open(self, address: Address, setting: Setting) -> Endpoint:
        """Return an endpoint for *address*. It may connect in ``warm_up`` or the first call."""

    def pin(self, address: Address) -> Address:
        """Return the address of the version that *address* means now.

        Without an ``alias`` in its description that is *address* itself.
        """
        return address

    def point(self, address: Address, version: Address) -> None:
        """Let the alias in *address* mean *version* from now on, in its own registry.

        Raises
        ------
        InvalidModel
            When this kind of address has no aliases that can be moved.
        """
        raise InvalidModel(f"the alias of {address.text[:200]!r} cannot be moved from here")

    def schemas(
        self, address: Address
    ) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
        """Return JSON Schemas of one event's data and of one output, ``None`` if unknown.

        May ask the server. Called once, at registration, if the user gave no schema.
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
    "webhook+http": "versions.schemes.webhook.scheme:Webhook",
    "webhook+https": "versions.schemes.webhook.scheme:Webhook",
    "models": "versions.schemes.mlflow.scheme:MlflowRegistry",
    "arn": "aws.models.arn:AwsArn",
    "sagemaker": "aws.models.arn:SageMaker",
    "command": "versions.schemes.command.scheme:Command",
    "onnx": "versions.schemes.onnx.scheme:Onnx",
    "kafka": "sources.brokers.sender:BrokerScheme",
    "rabbitmq": "sources.brokers.sender:BrokerScheme",
    "nats": "sources.brokers.sender:BrokerScheme",
    "redis": "sources.brokers.sender:BrokerScheme",
    "rediss": "sources.brokers.sender:BrokerScheme",
    "mqtt": "sources.brokers.sender:BrokerScheme",
    "mqtts": "sources.brokers.sender:BrokerScheme",
}
"""Scheme -> module and class."""
_FORM = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.+)", re.DOTALL)
_VERSION = re.compile(r"latest|\d+(\.\d+){0,2}([-+].*)?")


SCHEMES = Adapters("scheme of models", GROUP, OWN, InvalidModel)


def is_address(text: str) -> bool:
    """Whether *text* is the address of a model, not a selector or an import path.

    ``models:read_page`` is an import path, ``models:/read_page`` an address.

    Examples
    --------
    >>> is_address("https://models.example/ocr"), is_address("ocr:1.0.0")
    (True, False)
    """
    found = _FORM.fullmatch(text)
    if found is None or _VERSION.fullmatch(found[2]):
        return False
    if found[1] == "models" and all(part.isidentifier() for part in found[2].split(".")):
        return False
    return found[2].startswith("/") or found[1].lower() in SCHEMES


def scheme_of(address: Address) -> Scheme:
    """Return the scheme of *address*. A wrong one lists the near ones.

    Examples
    --------
    >>> from mltrigger.versions.address import Address
    >>> isinstance(scheme_of(Address.of("http://models.example/ocr", {})), Scheme)
    True
    """
    found = SCHEMES.load(address.scheme)
    scheme = found() if isinstance(found, type) else found
    if not isinstance(scheme, Scheme):
        raise InvalidModel(
            f"scheme {address.scheme!r}: {type(scheme).__name__} is no mltrigger.schemes.Scheme"
        )
    return scheme
