"""From a selector to something that can be called in this process."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable
from typing import Any

from mltrigger.clock import Clock
from mltrigger.errors import NotFound
from mltrigger.versions.address import Address
from mltrigger.versions.code.located import ABSENT, code_at
from mltrigger.versions.code.weights import Weights
from mltrigger.versions.describe import Model, as_model, load, names_model
from mltrigger.versions.running.surroundings import snapshot
from mltrigger.versions.schema.schema import Schema
from mltrigger.versions.version import SHOWN, ModelVersion, Selector

FRESH_US = 1_000_000
"""How long an answer is used before the registry is asked again; another process may have
registered a newer patch.
"""


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
        self._answers: dict[str, tuple[int, ModelVersion, Model]] = {}
        self._forgotten = 0
        self._guard = threading.Lock()

    def hold(self, version: ModelVersion, model: Model) -> None:
        """Keep *model* as what *version* is called with here; a cell that runs again hands over a
        new object, and its context.
        """
        key = version.name, version.version
        model = model.of_version(version, snapshot())
        with self._guard:
            before = self._held.get(key)
            # its one object, if it is a class, goes on
            if before is not None and before.target is model.target:
                model = dataclasses.replace(model, _once=before._once)
            self._held[key] = model
            self._forget()

    def forget(self) -> None:
        """Ask the registry again: an alias was moved."""
        with self._guard:
            self._forget()

    def _forget(self) -> None:
        self._forgotten += 1
        self._answers.clear()

    def of(self, selector: str) -> Callable[[], tuple[ModelVersion, Model]]:
        """Return a function that returns the version *selector* means now, and the model.

        That function raises NotFound while the model cannot be called in this process.
        """
        parsed = Selector.parse(selector)

        def resolve() -> tuple[ModelVersion, Model]:
            answer = self._answers.get(selector)
            if answer is None or self._clock.now_us() - answer[0] > FRESH_US:
                forgotten = self._forgotten
                answer = self._answer(parsed, answer)
                with self._guard:
                    if self._forgotten == forgotten:  # else it may be of before
                        self._answers[selector] = answer
            return answer[1], answer[2]

        return resolve

    def chosen(self, selector: str, version: Any = None) -> tuple[ModelVersion, Model]:
        """Return the version to try for the model of *selector*, and the model.

        *version* is ``"1.1.0"``, another selector, a registered version, or a model or its address,
        which is not registered by this; without it the one that *selector* means now.
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
        """Return why this process cannot get *version* by itself: it lives in another notebook.

        Else ``None``.
        """
        with self._guard:
            if version.portable or (version.name, version.version) in self._held:
                return None
        return (
            f"model {version} lives in another notebook; run the cell that defines it here, or move"
            " it into a module"
        )

    def _answer(
        self, selector: Selector, before: tuple[int, ModelVersion, Model] | None
    ) -> tuple[int, ModelVersion, Model]:
        version = self._choose(selector)
        if before is not None and before[1] == version:
            return self._clock.now_us(), version, before[2]
        return self._clock.now_us(), version, self._model(version)

    def _model(self, version: ModelVersion) -> Model:
        with self._guard:
            held = self._held.get((version.name, version.version))
        if held is not None:
            return held
        if (elsewhere := self.absent(version)) is not None:
            raise NotFound(elsewhere)
        model = _found(version)
        # two listeners may look for it at once: both get the one, with the one object of its class
        with self._guard:
            return self._held.setdefault((version.name, version.version), model)


def _found(version: ModelVersion) -> Model:
    """Return the model that *version* was registered with, from where the registry says that it is."""
    if version.address is not None:
        model, where = (
            Model(Address(version.address, version.options or "{}"), version.name),
            version.address,
        )
    else:
        where = version.import_path or ""
        _check_before_import(version, where)
        try:
            called_by = {
                name: value
                for name, value in (version.called_by or {}).items()
                if name != "schemas"
            }
            model = as_model(load(where, version.name), **called_by)
        except (Exception, SystemExit) as error:  # whatever a module does while it is imported
            raise NotFound(
                f"model {version} cannot be imported from {where}: {type(error).__name__}: {error}"
            ) from error
    if changes := version.changes(model.describe()):
        if version.address is not None:
            raise NotFound(
                f"model {version}: what {where!r} names is not here, or not what was registered"
                " (files are looked for from the folder of this process); start it where it was"
                " registered, or register a new version"
            )
        raise NotFound(
            f"model {version}: {where} holds other code now ({', '.join(changes[:SHOWN])});"
            " register it under a new version"
        )
    kept = (version.input_schema, version.output_schema)
    takes, gives = (_agreed(own, text) for own, text in zip(model.schemas(), kept, strict=True))
    return dataclasses.replace(model.of_version(version), input_schema=takes, output_schema=gives)


def _check_before_import(version: ModelVersion, where: str) -> None:
    """Check the files and, where its text tells, the code of *version*: what is imported runs, and
    other code shall not.
    """
    Weights(version.files).check(version.name)
    code = code_at(where)
    if code is not None and code != (version.parts or {}).get("code", version.digest):
        what = "is not there" if code == ABSENT else "holds other code now"
        raise NotFound(
            f"model {version}: {where} {what}; register it under a new version (the module was not"
            " imported)"
        )


def _agreed(own: Schema | None, kept: str | None) -> Any:
    """Return the schema that was registered: the code's own, whose objects the model gets, where it
    is the same.
    """
    if kept is None or (own is not None and json.loads(json.dumps(own.json)) == json.loads(kept)):
        return own
    return json.loads(kept)
