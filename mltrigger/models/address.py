"""Address: a model that runs elsewhere, or that is no Python: what its scheme needs to reach it, decided once by the user."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mltrigger.errors import InvalidModel, NotFound

_SHOWN = 200


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Address:
    """Where a model is, ``oip+http://host/v2/models/ocr``, and the options its scheme takes. An event never changes either.

    Parameters
    ----------
    text : str
        As the user wrote it. It holds no secret: what is secret is named by an environment variable in the options.
    given : str
        The options as canonical JSON, so that an address is a value: it can be compared, kept and sent to another process.
    """

    text: str
    given: str = "{}"

    @classmethod
    def of(cls, text: str, options: Mapping[str, Any]) -> Address:
        """Return an address with *options*, which must have a JSON form."""
        try:
            return cls(text, json.dumps(dict(options), sort_keys=True, allow_nan=False, ensure_ascii=False))
        except (TypeError, ValueError) as error:
            raise InvalidModel(f"model {text[:_SHOWN]!r}: its options must have a JSON form: {error}") from error

    def __repr__(self) -> str:
        return f"Address({self.text[:_SHOWN]!r})"

    @property
    def scheme(self) -> str:
        """What stands before the first colon: ``oip+http``, ``command``, ``arn``."""
        return self.text.partition(":")[0].lower()

    @property
    def rest(self) -> str:
        """What stands behind the first colon."""
        return self.text.partition(":")[2]

    @property
    def options(self) -> dict[str, Any]:
        """The options, as a new dict."""
        options: dict[str, Any] = json.loads(self.given)
        return options

    def checked(self, **known: type | tuple[type, ...]) -> dict[str, Any]:
        """Return the options when each is among *known*, name -> type; a wrong name lists the near ones.

        Raises
        ------
        NotFound
            For a name that the scheme does not know.
        InvalidModel
            For a value of another type.
        """
        options = self.options
        for name, value in options.items():
            if name not in known:
                raise NotFound.of(f"option of {self.scheme}: models", name, known)
            kind = known[name]
            kinds = kind if isinstance(kind, tuple) else (kind,)
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                wanted = " or ".join(kind.__name__ for kind in kinds)
                raise InvalidModel(f"model {self.text[:_SHOWN]!r}: option {name} must be {wanted}, got {value!r}")
        return options

    def digest(self, content: str = "") -> str:
        """Return 12 hexadecimal digits for the address, its options and, where it can be seen, the *content* behind it."""
        parts = json.dumps([self.text, self.options, content], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()[:12]
