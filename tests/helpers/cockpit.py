"""The front end of a dashboard without a browser: it asks, and gets answers."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from shared import wait_until

import mltrigger as mt
from mltrigger.notebook.cockpit.widget import Dashboard


class Refused(Exception):
    """The answer to an ask was an error."""


class Front:
    """Talks to *widget* as its view does."""

    def __init__(self, widget: Dashboard) -> None:
        self.widget, self.heard = widget, list[dict[str, Any]]()
        self._numbers = itertools.count(1)
        widget.send = self._hear

    def _hear(self, message: dict[str, Any], *_: Any) -> None:
        self.heard.append(json.loads(json.dumps(message, allow_nan=False)))

    @property
    def state(self) -> dict[str, Any]:
        return dict(self.widget.state)

    def say(self, content: Any) -> None:
        """Hand over what the front end sends."""
        data = {"method": "custom", "content": content}
        self.widget._handle_msg({"content": {"data": data}, "buffers": []})

    def views(self, count: int) -> None:
        """Say, as the front end does, how many views of the widget there are."""
        data = {"method": "update", "state": {"_view_count": count}}
        self.widget._handle_msg({"content": {"data": data}, "buffers": []})

    def begin(self, what: Any, args: Any = None) -> int:
        number = next(self._numbers)
        self.say({"type": "ask", "id": number, "what": what, "args": args})
        return number

    def end(self, number: int) -> dict[str, Any]:
        """Return the answer to an ask."""
        answer = wait_until(lambda: next(iter(self.told(number, "answer")), None))
        if "error" in answer:
            raise Refused(answer["error"])
        return dict(answer["value"])

    def told(self, number: int, kind: str) -> list[dict[str, Any]]:
        """Return the messages of a *kind* about an ask."""
        return [m for m in list(self.heard) if m["type"] == kind and m.get("id") == number]

    def ask(self, what: Any, **args: Any) -> dict[str, Any]:
        return self.end(self.begin(what, args))

    def act(self, action: str, go: bool = True, **args: Any) -> dict[str, Any]:
        """Do an action, or prepare it."""
        return self.ask("act", action=action, args=args, go=go)

    def rows(self, **filters: Any) -> list[dict[str, Any]]:
        return list(self.ask("rows", filter=filters, before=None, limit=100)["rows"])


def until_settled(bus: mt.EventBus) -> None:
    assert bus.wait(60, progress=False)


def copied(bus: mt.EventBus, path: Path) -> str:
    """Return the URL of a copy of the whole log."""
    path.unlink(missing_ok=True)
    bus.backup(path)
    return f"sqlite:///{path}"


def run_cell(code: str, bus: mt.EventBus) -> None:
    """Run a recorded cell as a notebook does, with the variable that it expects."""
    exec(compile(code, "cell", "exec"), {"bus": bus})


__all__ = ["Front", "Refused", "copied", "run_cell", "until_settled"]
