"""ModelVersion: one immutable version of a model.

Versions follow semantic versioning 2.0.0 (https://semver.org). A digest identifies the code.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from semver import Version

from mltrigger.errors import InvalidModel
from mltrigger.text import card
from mltrigger.versions.code.weights import shown

BUILD = "0.0.0"
"""A model without a version is a build, ``0.0.0+<digest>``."""

_FILE = "file "
SHOWN = 5
"""Changes that an error lists."""
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

    ``kind`` tells how it is called: ``callable``, ``batch``, ``predictor``, ``async``, or the
    scheme of its address. ``digest`` is the hash of its source and, for a fitted object, of its
    state. For an address it is the hash of the address and its options.

    Other processes find the model at ``import_path`` or ``address``. A model that lives only in a
    notebook has neither. ``options`` and the schemas are JSON texts. The options of a Python model
    have ``parts``: the digests of its parts. ``id`` is the registry's own number.
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
    def is_build(self) -> bool:
        """Whether this is an unreleased build."""
        return self.version.startswith(BUILD + "+")

    @property
    def called_by(self) -> dict[str, Any] | None:
        """The options of the call, such as ``batch`` and ``method``.

        ``None`` when an early release registered the version without them.
        """
        if self.options is None:
            return None
        options: dict[str, Any] = json.loads(self.options)
        if self.address is None:
            options.pop("parts", None)
        return options

    @property
    def parts(self) -> dict[str, str] | None:
        """The digests of the parts of a Python model, by label.

        ``None`` when an early release registered the version without them.
        """
        found: dict[str, str] | None = None
        if self.address is None:
            found = json.loads(self.options or "{}").get("parts")
        return found

    @property
    def files(self) -> dict[str, str]:
        """The SHA-256 of each file that belongs to a Python model, by name."""
        return {
            label.removeprefix(_FILE): digest
            for label, digest in (self.parts or {}).items()
            if label.startswith(_FILE)
        }

    def changes(self, now: ModelVersion) -> list[str]:
        """Return the differences between this code and that of *now*, in words.

        The same code has none.
        """
        if (self.digest, self.kind) == (now.digest, now.kind):
            return []
        before, after = self.parts, now.parts
        by_code = before is None and after is not None and self.digest == after.get("code")
        if by_code and self.kind == now.kind:
            return []  # an early release registered the digest of the code alone
        if before is None or after is None:
            return [f"{self.kind} {self.digest}, now {now.kind} {now.digest}"]
        kinds = [] if self.kind == now.kind else [f"{self.kind}, now {now.kind}"]
        changed = [label for label in {**before, **after} if before.get(label) != after.get(label)]
        return kinds + [_in_words(label, before, after) for label in changed]


def conflicts(version: ModelVersion, now: ModelVersion) -> list[str]:
    """Return why *now* cannot be registered as *version*, in words.

    The code counts, and the way it is called. Of an address the schemas count, too.
    """
    if changed := version.changes(now):
        return changed
    before, after = version.called_by, now.called_by
    if version.address is None and (before is None or after is None):
        return []  # an early release kept nothing to compare
    before, after = before or {}, after or {}
    changed = [
        f"{name}= differs" for name in {**before, **after} if before.get(name) != after.get(name)
    ]
    schemas = (version.input_schema, version.output_schema)
    if version.address is not None and schemas != (now.input_schema, now.output_schema):
        changed.append("its schemas differ")
    return changed


def _in_words(label: str, before: Mapping[str, str], after: Mapping[str, str]) -> str:
    kind, _, name = label.partition(" ")
    part = _PARTS.get(kind, f"{kind} {{}}").format(repr(shown(name) if kind == "file" else name))
    if label in before and label in after:
        return f"{part} differs"
    return f"{part} is {'new' if label in after else 'missing'}"


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
