"""ModelVersion and the selectors that find one.

A version is a semantic version 2.0.0 (https://semver.org). It is immutable: its digest says which
code it is.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from semver import Version

from mltrigger.errors import InvalidModel, NotFound
from mltrigger.names import check_model_name
from mltrigger.text import card
from mltrigger.versions.code.weights import shown

BUILD = "0.0.0"
"""Builds are versions ``0.0.0+<digest>``: what a function is while it is being written."""

_FILE = "file "
SHOWN = 5
"""How many changes an error lists."""
_PARTS = {
    "code": "its own code",
    "global": "the global {}",
    "captured": "the captured value {}",
    "default": "the default of {}",
    "function": "the function {}",
    "class": "the class {}",
    "file": "the content of the file {}",
}


@dataclasses.dataclass(frozen=True, slots=True)
class ModelVersion:
    """One immutable version of a model, as the registry keeps it.

    ``kind`` says how it is called: ``callable``, ``batch``, ``predictor``, ``async``, or the scheme
    of its address. ``digest`` is the hash of its source (and, for a fitted object, of its state),
    or of its address and options. ``import_path`` says where other processes find it, ``address``
    where it runs; neither is there when it lives in a notebook only. ``options`` and the schemas
    are JSON texts. The options of a Python model have ``parts``: the digests of what it is made of.
    ``id`` is the registry's own number.
    """

    name: str
    version: str
    kind: str
    digest: str
    import_path: str | None = None
    description: str | None = None
    created_us: int = 0
    id: int = 0
    address: str | None = None
    options: str | None = None
    input_schema: str | None = None
    output_schema: str | None = None

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"

    def _repr_html_(self) -> str:
        where = self.address or self.import_path or "this notebook only"
        return card(
            f"ModelVersion {self}", [("kind", self.kind), ("where", where), ("digest", self.digest)]
        )

    @property
    def portable(self) -> bool:
        """Whether any process that shares the store can call it."""
        return self.import_path is not None or self.address is not None

    @property
    def called_by(self) -> dict[str, Any] | None:
        """How a Python model is called: ``batch``, ``method`` and the like; ``None`` when the
        release that registered it kept nothing.
        """
        return (
            None
            if self.options is None
            else {k: v for k, v in json.loads(self.options).items() if k != "parts" or self.address}
        )

    @property
    def parts(self) -> dict[str, str] | None:
        """What the digest of a Python model is made of, name -> digest; ``None`` when the release
        that registered it kept nothing.
        """
        found: dict[str, str] | None = (
            json.loads(self.options or "{}").get("parts") if self.address is None else None
        )
        return found

    @property
    def files(self) -> dict[str, str]:
        """The files that belong to a Python model, name -> SHA-256."""
        return {
            label.removeprefix(_FILE): digest
            for label, digest in (self.parts or {}).items()
            if label.startswith(_FILE)
        }

    def changes(self, now: ModelVersion) -> list[str]:
        """Return what makes *now* other code than this version, in words; nothing when it is the
        same.
        """
        if (self.digest, self.kind) == (now.digest, now.kind):
            return []
        before, after = self.parts, now.parts
        if (
            before is None
            and after is not None
            and (self.digest, self.kind) == (after.get("code"), now.kind)
        ):
            return []  # registered by a release that looked at the code alone
        if before is None or after is None:
            return [f"{self.kind} {self.digest}, now {now.kind} {now.digest}"]
        kinds = [] if self.kind == now.kind else [f"{self.kind}, now {now.kind}"]
        changed = [label for label in {**before, **after} if before.get(label) != after.get(label)]
        return kinds + [_in_words(label, before, after) for label in changed]

    @property
    def is_build(self) -> bool:
        """Whether this is an unreleased build."""
        return self.version.startswith(BUILD + "+")


def _in_words(label: str, before: Mapping[str, str], after: Mapping[str, str]) -> str:
    kind, _, name = label.partition(" ")
    what = _PARTS.get(kind, f"{kind} {{}}").format(repr(shown(name) if kind == "file" else name))
    if label in before and label in after:
        return f"{what} differs"
    return f"{what} is {'new' if label in after else 'missing'}"


@dataclasses.dataclass(frozen=True, slots=True)
class Selector:
    """Which version of a model is meant: ``ocr:1.0.0``, ``ocr:1.0``, ``ocr:1``, ``ocr:latest``,
    ``ocr@champion``, or a build.
    """

    name: str
    version: str | None = None
    alias: str | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.alias}" if self.alias else f"{self.name}:{self.version}"

    @classmethod
    def parse(cls, text: str) -> Selector:
        """Return the selector of *text*; a name alone means ``latest``.

        Raises
        ------
        NotFound
            When the text follows none of the forms above; the message names them.
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
        """Return the one of *versions* that is meant now; *aliases* maps the model's aliases to
        versions.

        ``latest`` and the partial forms mean the highest release by semver precedence, pre-releases
        and builds aside; a model with builds only answers ``latest`` with its newest build.
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
        if chosen := self._newest(known.values(), wanted or ""):
            return chosen
        raise NotFound.of("model version", str(self), [str(v) for v in known.values()])

    @staticmethod
    def _newest(versions: Iterable[ModelVersion], wanted: str) -> ModelVersion | None:
        released = {v: Version.parse(v.version) for v in versions if not v.is_build}
        prefix = "" if wanted == "latest" else wanted + "."
        matching = {
            v: s for v, s in released.items() if s.prerelease is None and f"{s}.".startswith(prefix)
        }
        if matching:
            return max(matching, key=lambda v: matching[v])
        builds = [v for v in versions if v.is_build]
        return (
            max(builds, key=lambda v: (v.created_us, v.id))
            if wanted == "latest" and builds
            else None
        )


def check_version(text: str) -> str:
    """Return *text*, or raise InvalidModel when it is not a full semantic version."""
    if not isinstance(text, str) or not Version.is_valid(text):
        raise InvalidModel(
            f"version {text!r} is not a semantic version such as '1.0.0' (https://semver.org)"
        )
    if text.startswith(BUILD + "+"):
        raise InvalidModel(
            f"version {text!r} is kept for builds; leave the version out and the build gets its own"
        )
    return text
