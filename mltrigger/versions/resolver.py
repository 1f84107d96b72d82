"""From a selector to a model that can be called in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from mltrigger.clock import Clock
from mltrigger.errors import NotFound
from mltrigger.versions.describe import as_model
from mltrigger.versions.found import model_of
from mltrigger.versions.model import Model, sharing
from mltrigger.versions.running.surroundings import snapshot
from mltrigger.versions.selector import Selector, names_model
from mltrigger.versions.version import ModelVersion

FRESH_US = 1_000_000
"""Age up to which an answer is used. Another process may have registered a newer patch since."""


class _Answer(NamedTuple):
    """The meaning of a selector at one time."""

    asked_us: int
    version: ModelVersion
    model: Model


class Resolver:
    """Holds the models of this process, and finds the one that a selector means.

    Parameters
    ----------
    choose : callable
        Returns the registered version for a selector, or raises NotFound.
    """

    def __init__(self, choose: Callable[[Selector], ModelVersion], clock: Clock) -> None:
        self._choose, self._clock = choose, clock
        self._held: dict[tuple[str, str], Model] = {}
        self._answers: dict[str, _Answer] = {}
        self._forgotten = 0
        self._guard = threading.Lock()

    def hold(self, version: ModelVersion, model: Model) -> None:
        """Call *model* from now on for *version*, in the present context.

        A cell that runs again hands over a new model. Its object of the same class goes on.
        """
        key = version.name, version.version
        model = model.of_version(version, snapshot())
        with self._guard:
            before = self._held.get(key)
            if before is not None and before.target is model.target:
                model = sharing(model, before)
            self._held[key] = model
            self._forget()

    def forget(self) -> None:
        """Ask the registry again, since an alias was moved."""
        with self._guard:
            self._forget()

    def _forget(self) -> None:
        self._forgotten += 1
        self._answers.clear()

    def of(self, selector: str) -> Callable[[], tuple[ModelVersion, Model]]:
        """Return a function that returns the version *selector* means now, and its model.

        That function raises NotFound while the model cannot be called in this process.
        """
        parsed = Selector.parse(selector)

        def resolve() -> tuple[ModelVersion, Model]:
            answer = self._answers.get(selector)
            if answer is None or self._clock.now_us() - answer.asked_us > FRESH_US:
                forgotten = self._forgotten
                answer = self._answer(parsed, answer)
                with self._guard:
                    if self._forgotten == forgotten:  # else the answer may be outdated
                        self._answers[selector] = answer
            return answer.version, answer.model

        return resolve

    def chosen(self, selector: str, version: Any = None) -> tuple[ModelVersion, Model]:
        """Return the version to try for the model of *selector*, and its model.

        Parameters
        ----------
        selector : str
            The subscription's own.
        version
            ``"1.1.0"``, another selector, a registered version, a model or its address. Nothing is
            registered by this. Default: the version that *selector* means now.
        """
        own = Selector.parse(selector).name
        if version is None:
            return self.of(selector)()
        if isinstance(version, str) and not names_model(version):
            return self.of(version if ":" in version or "@" in version else f"{own}:{version}")()
        if isinstance(version, ModelVersion):
            return self.of(str(version))()
        model = as_model(version) if isinstance(version, Model) else as_model(version, name=own)
        described = model.describe()
        return described, model.of_version(described, snapshot())

    def absent(self, version: ModelVersion) -> str | None:
        """Return why this process cannot get *version* by itself, ``None`` if it can.

        It cannot when the model lives in another notebook.
        """
        with self._guard:
            if version.portable or (version.name, version.version) in self._held:
                return None
        return (
            f"model {version} lives in another notebook; run the cell that defines it here, or move"
            " it into a module"
        )

    def _answer(self, selector: Selector, before: _Answer | None) -> _Answer:
        version = self._choose(selector)
        same = before is not None and before.version == version
        model = before.model if before is not None and same else self._model(version)
        return _Answer(self._clock.now_us(), version, model)

    def _model(self, version: ModelVersion) -> Model:
        with self._guard:
            held = self._held.get((version.name, version.version))
        if held is not None:
            return held
        if (elsewhere := self.absent(version)) is not None:
            raise NotFound(elsewhere)
        model = model_of(version)
        # Two listeners may look for it at once. Both get one model, with one object of its class.
        with self._guard:
            return self._held.setdefault((version.name, version.version), model)
