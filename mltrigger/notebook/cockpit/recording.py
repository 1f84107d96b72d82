"""Recording: the code of all actions that were done, as one cell."""

from __future__ import annotations

import threading

from mltrigger.notebook.cockpit.code import Script, Step


class Recording:
    """Keeps the code of actions between on and off. Any thread may call it."""

    def __init__(self) -> None:
        self._scripts: list[Script] = []
        self._is_on = False
        self._guard = threading.Lock()

    @property
    def is_on(self) -> bool:
        """Whether actions are kept now."""
        return self._is_on

    def turn(self, on: bool) -> None:
        """Begin a new recording, or end it. Recorded lines stay until the next one begins."""
        with self._guard:
            if on and not self._is_on:
                self._scripts.clear()
            self._is_on = on

    def add(self, script: Script, after: Script | None = None) -> None:
        """Keep an action that was done, if the recording is on.

        Parameters
        ----------
        script : Script
            The action.
        after : Script, optional
            Waits for the events before. Given if they had ended when the action was done.
        """
        with self._guard:
            if self._is_on:
                if after is not None and self._scripts:
                    self._scripts.append(after)
                self._scripts.append(script)

    def code(self) -> str:
        """Return one cell that does the same. A subscription is looked up once in a row."""
        with self._guard:
            scripts = list(self._scripts)
        lines: list[str] = []
        known: dict[str, Step] = {}
        for script in scripts:
            for step in script.steps:
                if step.to == "sub" and known.get(step.to) == step:
                    continue
                if step.to:
                    known[step.to] = step
                lines.append(step.code())
        return "\n".join(["import mltrigger as mt", "", *lines]) + "\n" if lines else ""
