"""From a selector to something that can be called in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from mltrigger.clock import Clock
from mltrigger.errors import NotFound
from mltrigger.models.describe import Model, as_model, load
from mltrigger.models.invoke import Invoker
from mltrigger.models.version import ModelVersion, Selector

FRESH_US = 1_000_000
"""How long an answer is used before the registry is asked again; another process may have registered a newer patch."""


class Resolver:
    """Holds the models that live in this process, and finds the one that a selector means.

    Parameters
    ----------
    choose : callable
        Returns the registered version for a selector; raises NotFound.
    """

    def __init__(self, choose: Callable[[Selector], ModelVersion], clock: Clock) -> None:
        self._choose, self._clock = choose, clock
        self._held: dict[tuple[str, str], Model] = {}
        self._answers: dict[str, tuple[int, ModelVersion, Invoker]] = {}
        self._guard = threading.Lock()

    def hold(self, version: ModelVersion, model: Model) -> None:
        """Keep *model* as what *version* is called with here; a cell that runs again hands over a new object."""
        with self._guard:
            self._held[version.name, version.version] = model
            self._answers.clear()

    def forget(self) -> None:
        """Ask the registry again: an alias was moved."""
        with self._guard:
            self._answers.clear()

    def of(self, selector: str) -> Callable[[], tuple[ModelVersion, Invoker]]:
        """Return a function that returns the version *selector* means now, and its invoker.

        That function raises NotFound while the model cannot be called in this process.
        """
        parsed = Selector.parse(selector)

        def resolve() -> tuple[ModelVersion, Invoker]:
            answer = self._answers.get(selector)
            if answer is None or self._clock.now_us() - answer[0] > FRESH_US:
                answer = self._answer(parsed, answer)
                with self._guard:
                    self._answers[selector] = answer
            return answer[1], answer[2]

        return resolve

    def chosen(self, selector: str, version: Any = None) -> tuple[ModelVersion, Invoker]:
        """Return the version to try for the model of *selector*, and its invoker.

        *version* is ``"1.1.0"``, another selector, a registered version, or a model, which is not registered by this; without it the one
        that *selector* means now.
        """
        own = Selector.parse(selector).name
        if version is None:
            return self.of(selector)()
        if isinstance(version, str):
            return self.of(version if ":" in version or "@" in version else f"{own}:{version}")()
        if isinstance(version, ModelVersion):
            return self.of(str(version))()
        model = as_model(version) if isinstance(version, Model) else as_model(version, name=own)
        return model.describe(), Invoker(model)

    def _answer(self, selector: Selector, before: tuple[int, ModelVersion, Invoker] | None) -> tuple[int, ModelVersion, Invoker]:
        version = self._choose(selector)
        if before is not None and before[1] == version:
            return self._clock.now_us(), version, before[2]
        return self._clock.now_us(), version, Invoker(self._model(version))

    def _model(self, version: ModelVersion) -> Model:
        if (held := self._held.get((version.name, version.version))) is not None:
            return held
        if version.import_path is None:
            raise NotFound(f"model {version} lives in another notebook; run the cell that defines it here, or move it into a module")
        try:
            model = load(version.import_path)
        except (ImportError, AttributeError) as error:
            raise NotFound(f"model {version} cannot be imported from {version.import_path}: {error}") from error
        if model.describe().digest != version.digest:
            raise NotFound(f"model {version}: {version.import_path} holds other code now; register it under a new version")
        self._held[version.name, version.version] = model
        return model
