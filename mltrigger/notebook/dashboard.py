"""Dashboard: one subscription, live, from :func:`~mltrigger.notebook.snapshot.snapshot`."""

from __future__ import annotations

import contextlib
import math
import threading
import time
import weakref
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from mltrigger.errors import Closed, DiskFailed, NotFound
from mltrigger.event.data import decode_data
from mltrigger.event.event import Event
from mltrigger.event.ids import new_id
from mltrigger.notebook.charts import Histogram, drawn, ms
from mltrigger.notebook.snapshot import NEWEST, newest, snapshot, whole
from mltrigger.store.patience import at_once
from mltrigger.text import card, folded, short, table_html

if TYPE_CHECKING:
    from mltrigger.handle import Subscription
    from mltrigger.store.wake import Wakeup

__all__ = ["Dashboard", "snapshot"]

DISK_FAILED = "stopped by the store"
"""The state after a failed disk. Nothing changes any more, as after the bus was closed."""
RATE_HZ = 5.0
"""The shortest time between two changes of the widget. The last state wins."""
_SHARE = 0.1
"""The largest share of time for looking. A slow store is asked less often."""
_POLL_S = 1.0
BEAT_S = 2.0
"""How often the kernel says that it lives. The front end takes long silence for its end."""
_HERE = Path(__file__).parent


class Dashboard(anywidget.AnyWidget):
    """A live view of one subscription: counts, latency, newest attempts, a sample button.

    A thread follows the records of all processes until the widget or the bus is closed. It rests
    while no view is shown, and prints nothing. The view of a dead kernel turns grey, says when it
    was updated last, and disables its button. Without a front end, ``text/html`` shows a static
    form, see :meth:`to_html`.

    Parameters
    ----------
    subscription : Subscription
        The subscription to show.
    sample : optional
        The data that the button publishes, or an :class:`~mltrigger.Event`, which gets a new id and
        time each time. Default: the data of the topic's newest event.
    """

    # As text, not as a path: for a path anywidget keeps every widget alive, to load the file again
    # when it changes.
    _esm = (_HERE / "dashboard.js").read_text("utf-8")
    _css = (_HERE / "dashboard.css").read_text("utf-8")
    state = traitlets.Dict(
        help="What is shown, as JSON values: a snapshot, and what the button may do."
    ).tag(sync=True)

    def __init__(self, subscription: Subscription, sample: Any = None) -> None:
        self._subscription, self._sample = subscription, sample
        self._bus = subscription._bus  # a view may use the parts behind the handle
        self._stopped, self._guard = threading.Event(), threading.RLock()
        self._found, self._notice, self._outage = snapshot(subscription), "", ""
        self._was_viewed, self._beat_s = False, -math.inf
        # 0, not None: asks the front end to count its views
        super().__init__(state={**self._shown(), "at": _now()}, _view_count=0)
        self.on_msg(self._heard)
        self.observe(self._viewed, "_view_count")
        arguments = (weakref.ref(self), self._bus.wakeup, self._stopped)
        threading.Thread(
            target=_follow, args=arguments, name="mltrigger-dashboard", daemon=True
        ).start()

    def __repr__(self) -> str:
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
            self._bus.wakeup.notify_here("done")
        super().close()

    def refresh(self) -> bool:
        """Show the present state. Return whether anything new can still come."""
        with self._guard:
            try:
                with at_once():
                    self._found = snapshot(self._subscription, self._found)
                self._outage = ""
            except Exception as error:  # an outage of ours is shown, and ends with the outage
                self._outage = _message("cannot read the log", error)
                if self._bus.closed or isinstance(error, Closed):
                    self._found, self._outage = {**self._found, "state": "bus closed"}, ""
                elif isinstance(error, DiskFailed):
                    self._found = {**self._found, "state": DISK_FAILED}
            self._show()
            return self._found["state"] not in ("bus closed", DISK_FAILED)

    def to_html(self, times: bool = False) -> str:
        """Return the present state as HTML without scripts, every text escaped.

        Parameters
        ----------
        times : bool
            Whether to add parts that differ in every run: state, waiting events, latencies,
            histogram. Without them a notebook that runs again shows the same: counts by outcome,
            and the newest events in the order of publishing. This form is saved beside the widget.
        """
        self.refresh()
        found, tables = self._found, ""
        facts: list[tuple[str, Any]] = [
            ("topic", found["topic"]),
            ("model", found["selector"]),
            *found["counts"].items(),
        ]
        facts += [
            (f"{outcome} attempt{'' if n == 1 else 's'}", n)
            for outcome, n in found["attempts"].items()
        ]
        if not found["counts"] and not found["attempts"]:
            facts.append(("attempts", "none yet"))
        if self._outage:
            facts.append(("not up to date", self._outage))
        if times:
            facts += [
                ("state", found["state"]),
                ("waiting", found["depth"]["waiting"]),
                ("in flight", found["depth"]["in_flight"]),
            ]
            tables = drawn(Histogram(**found["histogram"])) + _latency_html(found["latency"])
        static = (
            f'<div style="opacity:.7">static, as of {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; run the'
            " cell for the live view</div>"
        )
        rows = self._newest()
        return card(
            f"Dashboard {found['title']}",
            facts,
            tables + _newest_html(rows, times) + self._whole_html(rows) + static,
        )

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
            self._bus.wakeup.notify_here("done")  # the thread may have rested

    def _heard(self, _: Any, content: Any, __: Any) -> None:
        if not isinstance(content, dict):
            return
        if content.get("type") == "fire":
            self.fire_sample()
        elif (
            content.get("type") == "whole"
            and type(seq := content.get("seq")) is type(attempt := content.get("attempt")) is int
        ):
            self.send(
                {
                    "type": "whole",
                    "seq": seq,
                    "attempt": attempt,
                    "texts": self._whole(seq, attempt),
                }
            )

    def _whole(self, seq: int, attempt: int) -> dict[str, str]:
        """Return the complete texts of one attempt, or the reason why not."""
        try:
            return whole(self._bus, self._subscription._spec, seq, attempt)
        except Exception as error:  # pruned meanwhile, or an outage
            return {"error": _message("cannot read the log", error)}

    def _whole_html(self, rows: list[dict[str, Any]]) -> str:
        """Return the complete texts of shortened *rows*, folded.

        Others are left out, so that a notebook that runs again shows the same.
        """
        parts = {"event": "data", "output": "output", "error": "error"}
        folds = ""
        for row in rows:
            if cut := [part for name, part in parts.items() if row[name].endswith("…")]:
                texts = self._whole(row["seq"], row["attempt"])
                folds += "".join(
                    folded(f"{row['event']}, attempt {row['attempt']}: {part}", texts[part])
                    for part in cut
                    if part in texts
                )
        return folds

    def fire_sample(self) -> None:
        """Publish the sample and return at once. The button calls this.

        A failure is shown in the widget.
        """
        try:
            self._bus.publish_batch(self._subscription.topic, [self._sample_event()])
            self._notice = ""
        except Exception as error:
            self._notice = _message("the sample was not published", error)
        self.refresh()

    def _sample_event(self) -> Event:
        if isinstance(self._sample, Event):
            # The same id again would be a duplicate and be ignored.
            fields = {
                "data",
                "type",
                "source",
                "subject",
                "datacontenttype",
                "dataschema",
                "extensions",
            }
            return Event(
                **{name: getattr(self._sample, name) for name in fields},
                id=new_id(),
                time=datetime.now(UTC),
            )
        if self._sample is not None:
            return Event(self._sample)
        rows = self._bus.log.events(self._subscription.topic, limit=1)
        if not rows:
            raise NotFound(
                f"topic {self._subscription.topic!r} has no event to repeat; sub.dashboard(sample)"
                " gives one"
            )
        _, _, type_, _, subject, _, _, _, media_type, raw, _ = rows[0]
        return Event(
            decode_data(raw, media_type), type=type_, subject=subject, datacontenttype=media_type
        )

    # -- what it shows -----------------------------------------------------------------------------

    def _shown(self) -> dict[str, Any]:
        return {**self._found, "notice": self._notice or self._outage, "button": self._button()}

    def _show(self) -> None:
        shown = self._shown()
        if shown != {name: value for name, value in self.state.items() if name != "at"}:
            self.state = {**shown, "at": _now()}

    def _button(self) -> dict[str, Any]:
        found = self._found
        if found["state"] in ("bus closed", "unsubscribed", DISK_FAILED):
            return {"enabled": False, "title": f"Nothing to fire at: {found['state']}"}
        if self._sample is not None:
            return {"enabled": True, "title": f"Publish the sample on {found['topic']}"}
        if found["repeatable"]:
            return {
                "enabled": True,
                "title": f"Publish the data of the newest event of {found['topic']} once more",
            }
        return {
            "enabled": False,
            "title": (
                f"{found['topic']} has no event to repeat yet: fire one, or call"
                " sub.dashboard(sample)"
            ),
        }

    def _newest(self) -> list[dict[str, Any]]:
        """Return the attempts of the newest events in the order of publishing.

        When the bus is closed, return those of the last look.
        """
        rows: list[dict[str, Any]] = self._found["newest"]
        with contextlib.suppress(Exception):
            rows = newest(self._bus, self._subscription._spec, 5 * NEWEST)
        return sorted(rows, key=lambda row: (row["seq"], row["attempt"]), reverse=True)[:NEWEST]


def _follow(widget: weakref.ref[Dashboard], wakeup: Wakeup, stopped: threading.Event) -> None:
    """Refresh the widget whenever something ended, until the widget or the bus is closed."""
    while True:
        seen, began = wakeup.generation("done"), time.monotonic()
        dashboard = widget()
        if dashboard is None or not dashboard.follow():
            return
        del dashboard  # hold nothing while waiting, so that an unused widget can be freed
        spent_s = time.monotonic() - began
        if stopped.wait(max(1 / RATE_HZ, spent_s / _SHARE)):
            return
        wakeup.wait("done", seen, min(_POLL_S, wakeup.poll_s))
        if stopped.is_set():
            return


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _message(what: str, error: Exception) -> str:
    return short(f"{what}: {type(error).__name__}: {error}", 300)


def _latency_html(rows: list[dict[str, Any]]) -> str:
    columns = ("p50_ms", "p95_ms", "p99_ms", "max_ms")
    cells = [
        (row["stage"], row["version"], row["count"], *(ms(row[name]) for name in columns))
        for row in rows
    ]
    return table_html(["stage", "version", "count", "p50", "p95", "p99", "max"], cells, "latency")


def _newest_html(rows: list[dict[str, Any]], times: bool) -> str:
    columns = ["event", "version", "outcome", "output", "error"] if rows else []
    timed = ["model_ms", "total_ms"] if times and rows else []
    cells = [
        [*(row[c] for c in columns), *("–" if row[t] is None else ms(row[t]) for t in timed)]
        for row in rows
    ]
    heads = [*columns, *(t.removesuffix("_ms") for t in timed)]
    return table_html(heads, cells, "newest events") if rows else ""
