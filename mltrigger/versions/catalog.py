"""The catalog: registers models, and follows aliases that live in another registry."""

from __future__ import annotations

import dataclasses
import json
import logging
from typing import Any, Protocol

from mltrigger.clock import Clock
from mltrigger.errors import InvalidModel, NotFound, VersionConflict
from mltrigger.names import check_model_name
from mltrigger.versions.address import Address
from mltrigger.versions.describe import as_model, is_nameless
from mltrigger.versions.model import Model
from mltrigger.versions.resolver import Resolver
from mltrigger.versions.scheme import scheme_of
from mltrigger.versions.selector import Rows, Selector, resolve, selects
from mltrigger.versions.version import SHOWN, ModelVersion, conflicts

logger = logging.getLogger("mltrigger")

AGAIN_US = 30_000_000
"""Pause before a silent registry is asked again. Asking may take seconds without deliveries."""


class Registered(Rows, Protocol):
    """The registered versions and aliases: the part of the registry that the catalog needs."""

    def register(self, version: ModelVersion) -> ModelVersion:
        """Add *version* unless its name and version exist, and return the registered one."""

    def set_alias(self, name: str, alias: str, version: str, follows: str | None = None) -> None:
        """Point *alias* of model *name* to *version*.

        *follows* names an alias elsewhere that it repeats.
        """

    def followed(self, selector: Selector) -> str | None:
        """Return the alias elsewhere that the alias of *selector* follows, ``None`` without one."""

    def follow(self, name: str, alias: str, version: str, follows: str) -> None:
        """Point *alias* to *version* if it still follows *follows*."""


class Catalog:
    """The models of one bus, as this process sees them."""

    def __init__(self, registry: Registered, clock: Clock) -> None:
        self._registry, self._clock = registry, clock
        self._ask_us: dict[str, int] = {}
        self.resolver = Resolver(self._choose, clock)

    def understood(
        self, model: Any, version: str | None, batch: bool | str | None, name: str | None = None
    ) -> Model | Selector:
        """Return an unregistered model, or the selector of a registered one.

        Parameters
        ----------
        model
            Anything that ``mt.model`` takes, a selector, or a registered version.
        version, batch
            As for ``mt.model``. ``batch="adaptive"`` is for a model that takes lists.
        name
            The subscription's name. A lambda takes it.
        """
        if isinstance(model, ModelVersion) or (
            isinstance(model, str) and selects(model, self._registry)
        ):
            if version is not None or batch not in (None, "adaptive"):
                raise InvalidModel(
                    f"{str(model)!r} selects a registered version: leave version and batch out, or"
                    " hand over the model itself"
                )
            selector = Selector.parse(str(model))
            resolve(self._registry, selector)
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

    def selector(self, handed: Model | Selector) -> str:
        """Return the selector of an :meth:`understood` model. A model is registered by this."""
        return str(handed) if isinstance(handed, Selector) else self.register(handed)[1]

    def register(self, model: Model) -> tuple[ModelVersion, str]:
        """Register one version of *model*.

        Returns
        -------
        tuple
            The version, and a selector of it. For an address with an alias, the selector follows
            the alias, and the version is the one that the alias means now.

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
        pinned = scheme_of(address).pin(address)
        found = self._kept(dataclasses.replace(model, target=pinned, version=None))
        takes, gives = (None if schema is None else dict(schema.json) for schema in model.schemas())
        follows = json.dumps([address.text, address.given, takes, gives], sort_keys=True)
        self._registry.set_alias(found.name, check_model_name(alias), found.version, follows)
        self.resolver.forget()
        return found, f"{found.name}@{alias}"

    def alias(self, model: str, alias: str, version: str) -> None:
        """Point ``model@alias`` to *version* from now on."""
        chosen = resolve(self._registry, Selector(check_model_name(model), version=version))
        self._registry.set_alias(model, check_model_name(alias), chosen.version)
        self.resolver.forget()

    def point(self, selector: Selector, version: ModelVersion) -> str | None:
        """Move the foreign alias that *selector* follows to *version*, in its own registry.

        Returns the address and options that it follows. ``None`` for an alias of ours, which stays.
        """
        follows = self._registry.followed(selector) if selector.alias is not None else None
        if follows is None:
            return None
        text, given, _, _ = json.loads(follows)
        if version.address is None:
            raise InvalidModel(
                f"the alias of {text!r} cannot mean {version}, which is in no registry of its kind"
            )
        address = Address(text, given)
        scheme_of(address).point(address, Address(version.address, version.options or "{}"))
        return follows

    def _kept(self, model: Model) -> ModelVersion:
        """Register *model*. Its address fills in the version and the schemas that are not given."""
        if isinstance(model.target, Address):
            scheme = scheme_of(model.target)
            takes, gives = scheme.schemas(model.target)
            told = {
                "input_schema": takes,
                "output_schema": gives,
                "version": scheme.describe(model.target).version,
            }
            missing: dict[str, Any] = {n: v for n, v in told.items() if getattr(model, n) is None}
            model = dataclasses.replace(model, **missing)
        described = model.describe()
        found = self._registry.register(described)
        if reasons := conflicts(found, described):
            raise VersionConflict(
                f"model {found} is registered with other code or data"
                f" ({', '.join(reasons[:SHOWN])}); a released version is immutable: give the new"
                " code a new version, or leave the version out while you are writing it"
            )
        self.resolver.hold(found, model)
        return found

    def _choose(self, selector: Selector) -> ModelVersion:
        """Return the version that *selector* means now.

        The last known one goes on while the registry of a followed alias does not answer.
        """
        known = resolve(self._registry, selector)
        follows = self._registry.followed(selector) if selector.alias is not None else None
        if follows is None or self._clock.now_us() < self._ask_us.get(follows, 0):
            return known
        text, given, takes, gives = json.loads(follows)
        address = Address(text, given)
        try:
            meant = scheme_of(address).pin(address)
        except NotFound:
            raise
        except Exception as error:  # an outage of theirs
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
