"""Which model is meant: the three forms of a name, and the version that a selector means.

A text names a model in one of three forms:

- an address, ``oip+http://host/v2/models/ocr`` (:func:`~mltrigger.versions.scheme.is_address`)
- an import path, ``package.module:attribute`` (:func:`is_import_path`)
- a selector of a registered version, ``ocr:1.0`` or ``ocr@champion`` (:class:`Selector`)

:func:`selects` tells the third from the others. :func:`resolve` finds the registered version.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Protocol

from semver import Version

from mltrigger.errors import NotFound
from mltrigger.names import check_model_name
from mltrigger.versions.scheme import is_address
from mltrigger.versions.version import ModelVersion

_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_import_path(text: str) -> bool:
    """Whether *text* has the form ``package.module:attribute``. ``ocr:latest`` is a selector."""
    return _IMPORT_PATH.fullmatch(text) is not None and text.rpartition(":")[2] != "latest"


def names_model(text: str) -> bool:
    """Whether *text* is an address or an import path, rather than a selector."""
    return is_address(text) or is_import_path(text)


class Rows(Protocol):
    """The registered versions and aliases, to be read."""

    def versions(self, name: str | None = None) -> list[ModelVersion]:
        """Return the versions of model *name*, or of all models, oldest first."""

    def aliases(self, name: str | None = None) -> dict[tuple[str, str], str]:
        """Return (model, alias) -> version, of model *name* or of all models."""


def selects(text: str, registered: Rows) -> bool:
    """Whether *text* is a selector.

    ``ocr:v1`` may be an import path. Where a model ``ocr`` is registered, it is a selector.
    """
    if is_address(text):
        return False
    return not is_import_path(text) or bool(registered.versions(text.partition(":")[0]))


def resolve(registered: Rows, selector: Selector) -> ModelVersion:
    """Return the registered version that *selector* means now.

    Raises
    ------
    NotFound
        When there is none. The message lists the near ones.
    """
    versions = registered.versions(selector.name)
    if not versions:
        raise NotFound.of(
            "model",
            selector.name,
            [version.name for version in registered.versions()],
            "bus.models() lists what is registered",
        )
    aliases = {alias: to for (_, alias), to in registered.aliases(selector.name).items()}
    return selector.choose(versions, aliases)


@dataclasses.dataclass(frozen=True, slots=True)
class Selector:
    """A registered version, named exactly or as one of several.

    ``ocr:1.0.0``, ``ocr:1.0``, ``ocr:1``, ``ocr:latest``, ``ocr@champion``, or a build.
    """

    name: str
    version: str | None = None
    alias: str | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.alias}" if self.alias else f"{self.name}:{self.version}"

    @classmethod
    def parse(cls, text: str) -> Selector:
        """Return the selector of *text*. A name alone means ``latest``.

        Raises
        ------
        NotFound
            When the text has none of these forms. The message names them.
        """
        if "@" in text:
            name, _, alias = text.partition("@")
            return cls(check_model_name(name), alias=check_model_name(alias))
        name, _, version = text.partition(":")
        check_model_name(name)
        version = version or "latest"
        parts = version.split(".")
        partial = len(parts) < 3 and all(p.isdecimal() for p in parts)
        if version != "latest" and not partial and not Version.is_valid(version):
            raise NotFound(
                f"no selector {text!r}: write {name}:1.0.0 (exact), {name}:1.0 (newest patch),"
                f" {name}:1, {name}:latest, {name}@alias or {name}:0.0.0+<hash> (a build)"
            )
        return cls(name, version=version)

    def choose(self, versions: Iterable[ModelVersion], aliases: Mapping[str, str]) -> ModelVersion:
        """Return the one of *versions* that is meant now.

        ``latest`` and the partial forms mean the highest release by semver precedence. Pre-releases
        and builds do not count. A model with builds only answers ``latest`` with its newest build.

        Parameters
        ----------
        versions
            All versions of the model.
        aliases : mapping
            The model's aliases and their versions.
        """
        known = {v.version: v for v in versions}
        if not known:
            raise NotFound(f"no model {self.name!r}; bus.models() lists what is registered")
        wanted = self.version
        if self.alias is not None:
            if self.alias not in aliases:
                raise NotFound.of(
                    "alias", f"{self.name}@{self.alias}", [f"{self.name}@{a}" for a in aliases]
                )
            wanted = aliases[self.alias]
        if wanted in known:
            return known[wanted]
        if chosen := _newest(known.values(), wanted or ""):
            return chosen
        raise NotFound.of("model version", str(self), [str(v) for v in known.values()])


def _newest(versions: Iterable[ModelVersion], wanted: str) -> ModelVersion | None:
    released = {v: Version.parse(v.version) for v in versions if not v.is_build}
    prefix = "" if wanted == "latest" else wanted + "."
    matching = {
        v: s for v, s in released.items() if s.prerelease is None and f"{s}.".startswith(prefix)
    }
    if matching:
        return max(matching, key=lambda v: matching[v])
    builds = [v for v in versions if v.is_build]
    if wanted == "latest" and builds:
        return max(builds, key=lambda v: (v.created_us, v.id))
    return None
