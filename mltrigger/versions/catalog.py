"""The catalog: registers models, and finds the one that a selector means, also where an alias
elsewhere decides.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from typing import Any, Protocol

from mltrigger.clock import Clock
from mltrigger.errors import InvalidModel, NotFound, VersionConflict
from mltrigger.names import check_model_name
from mltrigger.versions.address import Address
from mltrigger.versions.describe import Model, as_model, is_nameless, names_model
from mltrigger.versions.resolver import Resolver
from mltrigger.versions.scheme import is_address, scheme_of
from mltrigger.versions.version import ModelVersion, Selector

logger = logging.getLogger("mltrigger")

AGAIN_US = 30_000_000
"""How long a registry that did not answer is left alone: asking it may take seconds, in which
nothing is received.
"""


class Registered(Protocol):
    """The registered versions and aliases: the part of the registry that the catalog needs."""

    def register(self, version: ModelVersion) -> ModelVersion:
        """Add *version*.

        The same code again is the same version; other code raises VersionConflict.
        """

    def versions(self, name: str | None = None) -> list[ModelVersion]:
        """Return the versions of model *name*, or of all models, oldest first."""

    def resolve(self, selector: Selector) -> ModelVersion:
        """Return the version that *selector* means now; raise NotFound without one."""

    def set_alias(self, name: str, alias: str, version: str, follows: str | None = None) -> None:
        """Point *alias* of model *name* to *version*.

        *follows* names an alias elsewhere that it repeats.
        """

    def followed(self, selector: Selector) -> str | None:
        """Return the alias elsewhere that the alias of *selector* follows, ``None`` without one."""

    def follow(self, name: str, alias: str, version: str, follows: str) -> None:
        """Point *alias* to *version* if it still follows *follows*."""


class Catalog:
    """The models of one bus, as this process sees them.

    Parameters
    ----------
    registry, clock
        The parts.
    """

    def __init__(self, registry: Registered, clock: Clock) -> None:
        self._registry, self._clock = registry, clock
        self._ask_us: dict[str, int] = {}
        self.resolver = Resolver(self._choose, clock)

    def understood(
        self, model: Any, version: str | None, batch: bool | str | None, name: str | None = None
    ) -> Model | Selector:
        """Return what was handed over to be subscribed: a model, not registered yet, or a selector
        of one that is.

        Parameters
        ----------
        model
            Anything that ``mt.model`` takes, a selector, or a registered version.
        version, batch
            As for ``mt.model``; or ``batch="adaptive"``, for a model that takes lists.
        name
            The subscription's name, which a lambda takes.
        """
        if isinstance(model, ModelVersion) or (isinstance(model, str) and self._selects(model)):
            if version is not None or batch not in (None, "adaptive"):
                raise InvalidModel(
                    f"{str(model)!r} selects a registered version: leave version and batch out, or"
                    " hand over the model itself"
                )
            selector = Selector.parse(str(model))
            self._registry.resolve(selector)
            return selector
        if batch not in (None, True, False, "adaptive"):
            raise InvalidModel(
                f"batch={batch!r}: write True, False or 'adaptive'; batch_size says how many events"
                " a call has at most"
            )
        own = name if is_nameless(model) else None
        handed = as_model(
            model, name=own, version=version, batch=None if batch == "adaptive" else batch
        )
        if batch == "adaptive" and not handed.batches and not isinstance(handed.target, Address):
            raise InvalidModel(
                f"model {handed.name!r} takes one event: batch='adaptive' needs an object with"
                " predict(), or a function that takes a list: mt.model(function, batch=True)"
            )
        return handed

    def _selects(self, text: str) -> bool:
        """Whether *text* is a selector; ``ocr:v1`` may be an import path, but not where there is a
        model ``ocr``.
        """
        return not names_model(text) or (
            not is_address(text) and bool(self._registry.versions(text.partition(":")[0]))
        )

    def selector(self, handed: Model | Selector) -> str:
        """Return the selector of what was :meth:`understood`; a model is registered by this."""
        return str(handed) if isinstance(handed, Selector) else self.register(handed)[1]

    def register(self, model: Model) -> tuple[ModelVersion, str]:
        """Register one version of *model*; return it, and the selector that means what the user
        handed over.

        Of an address that follows an alias, that is the version it means now, and a selector that
        goes on following it.

        Raises
        ------
        VersionConflict
            When the version exists with other code.
        """
        address = model.target if isinstance(model.target, Address) else None
        alias = scheme_of(address).describe(address).alias if address is not None else None
        if address is None or alias is None:
            found = self._kept(model)
            return found, str(found)
        found = self._kept(
            dataclasses.replace(model, target=scheme_of(address).pin(address), version=None)
        )
        takes, gives = (None if schema is None else dict(schema.json) for schema in model.schemas())
        follows = json.dumps([address.text, address.given, takes, gives], sort_keys=True)
        self._registry.set_alias(found.name, check_model_name(alias), found.version, follows)
        self.resolver.forget()
        return found, f"{found.name}@{alias}"

    def alias(self, model: str, alias: str, version: str) -> None:
        """Let ``model@alias`` mean *version* from now on."""
        self._registry.set_alias(check_model_name(model), check_model_name(alias), version)
        self.resolver.forget()

    def _kept(self, model: Model) -> ModelVersion:
        """Register *model*, with the version and the schemas that its address tells when the user
        did not.
        """
        if isinstance(model.target, Address):
            scheme = scheme_of(model.target)
            takes, gives = scheme.schemas(model.target)
            told: dict[str, Any] = {
                "input_schema": takes,
                "output_schema": gives,
                "version": scheme.describe(model.target).version,
            }
            model = dataclasses.replace(
                model,
                **{name: value for name, value in told.items() if getattr(model, name) is None},
            )
        found = self._registry.register(model.describe())
        self.resolver.hold(found, model)
        return found

    def _choose(self, selector: Selector) -> ModelVersion:
        """Return the version that *selector* means now; the last one known while the registry of a
        followed alias does not answer.
        """
        known = self._registry.resolve(selector)
        follows = self._registry.followed(selector) if selector.alias is not None else None
        if follows is None or self._clock.now_us() < self._ask_us.get(follows, 0):
            return known
        text, given, takes, gives = json.loads(follows)
        address = Address(text, given)
        try:
            meant = scheme_of(address).pin(address)
        except NotFound:
            raise
        except Exception as error:  # an outage of theirs; what was meant a moment ago goes on
            self._ask_us[follows] = self._clock.now_us() + AGAIN_US
            logger.warning(
                "model %s: cannot ask what the alias means, going on with %s: %s",
                selector,
                known.version,
                error,
            )
            return known
        if (meant.text, meant.given) == (known.address, known.options):
            return known
        try:
            found = self._kept(Model(meant, selector.name, input_schema=takes, output_schema=gives))
        except VersionConflict as error:
            raise InvalidModel(
                f"model {selector} means {meant.text} now, and that cannot be registered: {error}"
            ) from error
        self._registry.follow(selector.name, selector.alias or "", found.version, follows)
        return found
