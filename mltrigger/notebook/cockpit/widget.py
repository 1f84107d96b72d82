"""Dashboard: the widget of the cockpit. It holds the parts together, and talks to the view."""

from __future__ import annotations

import contextlib
import math
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from mltrigger.errors import Closed
from mltrigger.notebook.cockpit import files, static
from mltrigger.notebook.cockpit.actions.base import Desk
from mltrigger.notebook.cockpit.answering import Answerer, Parts
from mltrigger.notebook.cockpit.screen import Screen

if TYPE_CHECKING:
    from mltrigger.broker import SubscriptionSpec
    from mltrigger.bus import EventBus
    from mltrigger.store.wake import Wakeup

__all__ = ["Dashboard"]

RATE_HZ = 5.0
"""The shortest time between two changes of the widget. The last state wins."""
_SHARE = 0.1
"""The largest share of a processor for looking. A large bus is asked less often."""
_MOST_REST_S, _POLL_S = 5.0, 1.0
BEAT_S = 2.0
"""How often the kernel says that it lives. The front end takes long silence for its end."""


class Dashboard(anywidget.AnyWidget):
    """A live view of a bus or one of its subscriptions, to look at and to steer.

    It shows topics, subscriptions and versions with live counts, throughput and latency, and each
    attempt. A thread follows the records of all processes until the widget or the bus is closed. It
    rests while no view is shown, and prints nothing. Every action shows its line of Python. Without
    a front end, ``text/html`` shows a static form, see :meth:`to_html`.

    Parameters
    ----------
    bus : EventBus
        The bus to show.
    subscription : SubscriptionSpec, optional
        The subscription that is chosen at first. Default: all of the bus.
    sample : optional
        The data that the fire button publishes, or an :class:`~mltrigger.Event`, which gets a new
        id and time each time. Default: the data of the topic's newest event.
    read_only : bool
        Whether all actions are refused.
    """

    # As text, not as a path: for a path anywidget keeps every widget alive, to load the file again
    # when it changes.
    _esm = files.MODULE
    _css = files.STYLE
    state = traitlets.Dict(help="The shown state, as JSON values.").tag(sync=True)

    def __init__(
        self,
        bus: EventBus,
        subscription: SubscriptionSpec | None = None,
        sample: Any = None,
        *,
        read_only: bool = False,
    ) -> None:
        self._bus, self._subscription, self._sample = bus, subscription, sample
        self._stopped, self._guard = threading.Event(), threading.RLock()
        self._woken = threading.Event()
        self._was_viewed, self._beat_s = False, -math.inf
        self._screen = Screen(bus, subscription, read_only)
        # 0, not None: asks the front end to count its views
        super().__init__(state=self._screen.state, _view_count=0)
        _answer_in_their_subshell(self.comm)
        # the parts hold the widget weakly, so that an unused one can be freed
        me = weakref.ref(self)
        self._answerer = Answerer(
            Parts(
                bus,
                lambda: _desk(me),
                lambda name: _choose(me, name),
                lambda: _look(me),
                lambda message: _send(me, message),
            ),
            self._screen.is_read_only,
        )
        self.on_msg(self._heard)
        self.observe(self._viewed, "_view_count")
        arguments = (me, bus.wakeup, self._stopped, self._woken, lambda: bus.closed)
        threading.Thread(
            target=_follow, args=arguments, name="mltrigger-dashboard", daemon=True
        ).start()

    def __repr__(self) -> str:
        if self._subscription is None:
            return f"Dashboard({self._screen.title})"
        return f"Dashboard({self._subscription.name!r} on {self._subscription.topic!r})"

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the live view, and a static one for readers without a kernel."""
        bundle = super()._repr_mimebundle_(**kwargs) or {"text/plain": repr(self)}
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**data, "text/html": self.to_html()}, metadata

    def close(self) -> None:
        """Remove the widget from the page and stop following. Idempotent."""
        if (stopped := getattr(self, "_stopped", None)) is not None:
            stopped.set()
            self._wake()
        if (answerer := getattr(self, "_answerer", None)) is not None:
            answerer.close()
        super().close()

    def refresh(self) -> bool:
        """Show the present state. Return whether anything new can still come."""
        with self._guard:
            if self._screen.look():
                self.state = self._screen.state
            return not self._screen.is_over

    def to_html(self, times: bool = False) -> str:
        """Return the present state as HTML without scripts, every text escaped.

        Parameters
        ----------
        times : bool
            Whether to add parts that differ in every run: state, waiting events, latencies,
            histogram. Without them a notebook that runs again shows the same: counts by outcome,
            and the newest events in the order of publishing. This form is saved beside the widget.
        """
        self._screen.forget()  # a trouble of the store is said, too
        self.refresh()
        return static.page(self._bus, self._screen.spec, self.state, times)

    def follow(self) -> bool:
        """Refresh if the front end shows a view. Return as :meth:`refresh`.

        A front end that never counted its views counts as looking.
        """
        unseen = self._was_viewed and not self._view_count and not self._bus.closed
        if not unseen and time.monotonic() - self._beat_s >= BEAT_S:
            self._beat()
        return unseen or self.refresh()

    def _beat(self) -> None:
        self._beat_s = time.monotonic()
        with contextlib.suppress(Exception):  # without a channel there is no front end
            self.send({"type": "alive"})

    # -- what the front end says -------------------------------------------------------------------

    def _viewed(self, change: Any) -> None:
        if change["new"]:
            self._was_viewed, self._beat_s = True, -math.inf
            self._wake()  # the thread may have rested

    def _wake(self) -> None:
        self._woken.set()
        self._bus.wakeup.notify_here("done")

    def _heard(self, _: Any, content: Any, __: Any) -> None:
        self._answerer.hear(content)

    def _desk(self) -> Desk:
        import mltrigger

        return Desk(self._bus, self._screen.chosen, mltrigger._default is self._bus, self._sample)


# The parts reach the widget through these. It may be gone: then nobody asks.


def _of(widget: weakref.ref[Dashboard]) -> Dashboard:
    dashboard = widget()
    if dashboard is None:
        raise Closed("this dashboard is gone")
    return dashboard


def _desk(widget: weakref.ref[Dashboard]) -> Desk:
    return _of(widget)._desk()


def _choose(widget: weakref.ref[Dashboard], name: str | None) -> None:
    """Choose and show at once: the answer comes after the state."""
    dashboard = _of(widget)
    dashboard._screen.choose(name)
    dashboard.refresh()


def _look(widget: weakref.ref[Dashboard]) -> None:
    """Let the thread look at once. The asking thread does not wait for it."""
    if (dashboard := widget()) is not None:
        dashboard._wake()


def _send(widget: weakref.ref[Dashboard], message: dict[str, Any]) -> None:
    _of(widget).send(message)


def _answer_in_their_subshell(comm: Any) -> None:
    """Let the questions of the view go to the subshell that they name.

    ipykernel 7.4 sends a message of a view to the shell that spoke on its comm last. For state sent
    by a thread that is the main one: a pause would wait for the running cell.
    """
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = lambda data, named: named


def _follow(
    widget: weakref.ref[Dashboard],
    wakeup: Wakeup,
    stopped: threading.Event,
    woken: threading.Event,
    closed: Callable[[], bool],
) -> None:
    """Refresh the widget whenever something ended, until the widget or the bus is closed.

    It rests between two looks, unless a user acts in the view.
    """
    while not stopped.is_set():
        seen, began_s = wakeup.generation("done"), time.thread_time()
        woken.clear()
        dashboard = widget()
        if dashboard is None or not dashboard.follow():
            return
        del dashboard  # hold nothing while waiting, so that an unused widget can be freed
        spent_s = time.thread_time() - began_s
        rest_s = min(max(1 / RATE_HZ, spent_s / _SHARE), _MOST_REST_S)
        stopped.wait(1 / RATE_HZ)
        rest_s -= 1 / RATE_HZ
        while rest_s > 0 and not closed() and not woken.wait(min(rest_s, _POLL_S)):
            rest_s -= _POLL_S
        wakeup.wait("done", seen, min(_POLL_S, wakeup.poll_s))
