"""mltrigger: event-driven model serving, Jupyter-first.

::

    import mltrigger as mt

    @mt.model("ocr", version="1.0.0")
    def read_page(document):
        ...

    sub = mt.subscribe("documents", read_page)   # delivers in the background of this kernel
    run = mt.fire("documents", pages)            # publish, wait for every subscriber
    run.results()                                # DataFrame: one row per sample and subscriber

The functions of the module use the default bus: ``$MLTRIGGER_URL``, else ``sqlite:///mltrigger.db``
in the working directory. The first call opens it. ``mt.connect(url)`` opens another bus with the
same methods.
"""

from __future__ import annotations

import functools
import importlib
import threading

from mltrigger._version import __version__

TYPE_CHECKING = False  # typing's own, without the time that importing typing takes
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mltrigger.api.server import Server, serve
    from mltrigger.broker import Depth, Receipt
    from mltrigger.bus import EventBus
    from mltrigger.errors import (
        AmbiguousEvent,
        BindingConflict,
        Circular,
        Closed,
        DiskFailed,
        EffectMissing,
        EffectUnknown,
        EventTooLarge,
        InvalidComparison,
        InvalidEvent,
        InvalidFilter,
        InvalidModel,
        InvalidName,
        InvalidPolicy,
        InvalidReport,
        InvalidSignature,
        MltriggerError,
        ModelFailure,
        NameTaken,
        NotEncodable,
        NotFound,
        NothingToCompare,
        NotShipped,
        ObjectMissing,
        OutsideCall,
        Reject,
        Retry,
        StoreError,
        VersionConflict,
    )
    from mltrigger.event.event import Event
    from mltrigger.handle import Subscription
    from mltrigger.policy import DeliveryPolicy
    from mltrigger.reports.export import to_csv, to_excel, to_feather
    from mltrigger.rollout import agree as agree
    from mltrigger.rollout.guard import Guard
    from mltrigger.run import Run
    from mltrigger.urls import connect
    from mltrigger.versions.describe import Model, model
    from mltrigger.versions.running.effects import once
    from mltrigger.versions.running.measures import report
    from mltrigger.versions.running.workers.ray import RayExecutor
    from mltrigger.versions.version import ModelVersion

    # For editors and type checkers: the functions below are the methods of a bus, with their
    # signatures.
    _bus = EventBus.__new__(EventBus)
    alias, audit, backup, cancel, wait = _bus.alias, _bus.audit, _bus.backup, _bus.cancel, _bus.wait
    doctor, events, explain, fire = _bus.doctor, _bus.events, _bus.explain, _bus.fire
    invocations, label, label_batch = _bus.invocations, _bus.label, _bus.label_batch
    latency, models, plan, prune = _bus.latency, _bus.models, _bus.plan, _bus.prune
    plot_latency, plot_outcomes, trace = _bus.plot_latency, _bus.plot_outcomes, _bus.trace
    plot_throughput, plot_timeline, labels = _bus.plot_throughput, _bus.plot_timeline, _bus.labels
    plot_trace, dashboard, topics = _bus.plot_trace, _bus.dashboard, _bus.topics
    publish, publish_batch, register = _bus.publish, _bus.publish_batch, _bus.register
    retain, subscribe, unsubscribe = _bus.retain, _bus.subscribe, _bus.unsubscribe
    subscription, subscriptions, topic = _bus.subscription, _bus.subscriptions, _bus.topic

_HOME = {
    "BindingConflict": "errors",
    "AmbiguousEvent": "errors",
    "Circular": "errors",
    "Closed": "errors",
    "DeliveryPolicy": "policy",
    "Depth": "broker",
    "Event": "event.event",
    "EventBus": "bus",
    "DiskFailed": "errors",
    "EffectMissing": "errors",
    "EffectUnknown": "errors",
    "EventTooLarge": "errors",
    "Guard": "rollout.guard",
    "InvalidComparison": "errors",
    "InvalidCorrection": "errors",
    "InvalidEvent": "errors",
    "InvalidFilter": "errors",
    "InvalidModel": "errors",
    "InvalidName": "errors",
    "InvalidPolicy": "errors",
    "InvalidReport": "errors",
    "InvalidSignature": "errors",
    "MltriggerError": "errors",
    "Model": "versions.describe",
    "ModelFailure": "errors",
    "ModelVersion": "versions.version",
    "NameTaken": "errors",
    "NotEncodable": "errors",
    "NotFound": "errors",
    "NotShipped": "errors",
    "NothingToCompare": "errors",
    "ObjectMissing": "errors",
    "OutsideCall": "errors",
    "RayExecutor": "versions.running.workers.ray",
    "Receipt": "broker",
    "Reject": "errors",
    "Retry": "errors",
    "Run": "run",
    "Server": "api.server",
    "StoreError": "errors",
    "Subscription": "handle",
    "VersionConflict": "errors",
    "connect": "urls",
    "model": "versions.describe",
    "once": "versions.running.effects",
    "report": "versions.running.measures",
    "to_csv": "reports.export",
    "to_excel": "reports.export",
    "to_feather": "reports.export",
}
_OF_THE_BUS = (
    "alias",
    "audit",
    "backup",
    "cancel",
    "dashboard",
    "doctor",
    "events",
    "explain",
    "fire",
    "invocations",
    "label",
    "label_batch",
    "labels",
    "latency",
    "models",
    "plan",
    "plot_latency",
    "plot_outcomes",
    "plot_throughput",
    "plot_timeline",
    "plot_trace",
    "prune",
    "publish",
    "publish_batch",
    "register",
    "retain",
    "subscribe",
    "subscription",
    "subscriptions",
    "topic",
    "topics",
    "trace",
    "unsubscribe",
    "wait",
)

_ROOMS = {
    "agree": "rollout.agree",
    "aws": "aws",
    "schemes": "schemes",
    "testing": "testing",
}
"""Rooms that are public beside these names."""

__all__ = [
    "AmbiguousEvent",
    "BindingConflict",
    "Circular",
    "Closed",
    "DeliveryPolicy",
    "Depth",
    "DiskFailed",
    "EffectMissing",
    "EffectUnknown",
    "Event",
    "EventBus",
    "EventTooLarge",
    "Guard",
    "InvalidComparison",
    "InvalidCorrection",
    "InvalidEvent",
    "InvalidFilter",
    "InvalidModel",
    "InvalidName",
    "InvalidPolicy",
    "InvalidReport",
    "InvalidSignature",
    "MltriggerError",
    "Model",
    "ModelFailure",
    "ModelVersion",
    "NameTaken",
    "NotEncodable",
    "NotFound",
    "NotShipped",
    "NothingToCompare",
    "ObjectMissing",
    "OutsideCall",
    "RayExecutor",
    "Receipt",
    "Reject",
    "Retry",
    "Run",
    "Server",
    "StoreError",
    "Subscription",
    "VersionConflict",
    "__version__",
    "alias",
    "audit",
    "backup",
    "cancel",
    "close",
    "connect",
    "dashboard",
    "default_bus",
    "doctor",
    "events",
    "explain",
    "fire",
    "invocations",
    "label",
    "label_batch",
    "labels",
    "latency",
    "model",
    "models",
    "once",
    "plan",
    "plot_latency",
    "plot_outcomes",
    "plot_throughput",
    "plot_timeline",
    "plot_trace",
    "prune",
    "publish",
    "publish_batch",
    "register",
    "report",
    "retain",
    "serve",
    "subscribe",
    "subscription",
    "subscriptions",
    "to_csv",
    "to_excel",
    "to_feather",
    "topic",
    "topics",
    "trace",
    "unsubscribe",
    "use",
    "wait",
]

_default: EventBus | None = None
_guard = threading.Lock()


def default_bus() -> EventBus:
    """Return the bus behind the functions of this module. The first call opens it.

    Examples
    --------
    >>> mt.default_bus() is bus
    True
    """
    global _default  # the one state of the module
    with _guard:
        if _default is None or _default.closed:
            _default = __getattr__("connect")()
        bus: EventBus = _default
        return bus


def use(url: str | None = None, **aws: Any) -> EventBus:
    """Make the bus at *url* the default bus, and return it. The one before is closed.

    *aws*: the options of :func:`connect` for a bus on AWS.

    Examples
    --------
    >>> mt.use("memory://") is mt.default_bus()
    True
    """
    global _default
    bus: EventBus = __getattr__("connect")(url, **aws)
    close()
    _default = bus
    return bus


def close() -> None:
    """Close the default bus, if it is open. The next function that needs one opens it again.

    Examples
    --------
    >>> mt.close()
    """
    global _default
    with _guard:
        bus, _default = _default, None
    if bus is not None:
        bus.close()


def _of_the_default_bus(name: str) -> Callable[..., Any]:
    """Return a method of the bus as a function, with its signature and documentation.

    Only calling it opens the default bus.
    """
    import inspect

    from mltrigger.bus import EventBus

    method = getattr(_with_examples("EventBus", EventBus), name)

    @functools.wraps(method)
    def function(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return getattr(default_bus(), name)(*args, **kwargs)

    signature = inspect.signature(method)
    function.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])  # type: ignore[attr-defined]
    return function


def _serving() -> Callable[..., Any]:
    """Return ``api.server.serve`` with the default bus as its default."""
    from mltrigger.api.server import serve

    @functools.wraps(serve)
    def function(bus: EventBus | None = None, **options: Any) -> Server:
        __tracebackhide__ = True
        return serve(default_bus() if bus is None else bus, **options)

    return function


def _with_examples(name: str, value: Any) -> Any:
    """Return *value*, documented with its examples."""
    from mltrigger.notebook import examples

    return examples.attach(name, value)


def __getattr__(name: str) -> Any:
    """Load public names at their first use: importing the package costs nothing."""
    if name in ("load_ipython_extension", "unload_ipython_extension"):  # %load_ext mltrigger
        return getattr(importlib.import_module("mltrigger.notebook.magics"), name)
    if name in _ROOMS:
        return importlib.import_module(f"mltrigger.{_ROOMS[name]}")
    if name in _OF_THE_BUS:
        value = _of_the_default_bus(name)
    elif name == "serve":
        value = _with_examples(name, _serving())
    elif name in _HOME:
        module = importlib.import_module(f"mltrigger.{_HOME[name]}")
        value = _with_examples(name, getattr(module, name))
    else:
        near = importlib.import_module("difflib").get_close_matches(name, __dir__())
        hint = " or ".join(map(repr, near))
        hint = hint and f"; did you mean {hint}?"
        raise AttributeError(f"module 'mltrigger' has no attribute {name!r}{hint}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Offer the public names alone, without rooms of the package that happen to be loaded."""
    return sorted([*__all__, *_ROOMS])
