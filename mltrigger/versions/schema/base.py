"""The contract of a schema, and the failure of a value that does not fit."""

from __future__ import annotations

import abc
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from mltrigger.errors import InvalidModel, ModelFailure, NotEncodable, how_to_install
from mltrigger.event import codec
from mltrigger.versions.schema.hints import PLAIN, Hint
from mltrigger.versions.schema.mismatch import Mismatch, told
from mltrigger.versions.schema.outline import names, outline

INPUT, OUTPUT = "invalid_input", "invalid_output"


class Schema(abc.ABC):
    """The form that a value must have.

    Attributes
    ----------
    json : mapping
        The form as a JSON Schema document, for people and for the registry.
    classes : tuple of types
        Objects of these classes fit unchecked.
    hint : Hint, optional
        The class or type that the schema was made of. ``None`` for a JSON Schema.
    """

    json: Mapping[str, Any]
    classes: tuple[type, ...] = ()
    hint: Hint | None = None

    @abc.abstractmethod
    def accept(self, value: Any, reason: str = INPUT) -> Any:
        """Check *value* and return it as the model gets it.

        That is the value itself, or an object of the declared class.

        Raises
        ------
        ModelFailure
            Permanent, with *reason*, when the value does not fit. The message names the fields.
        """

    def accept_output(self, value: Any) -> Any:
        """Check the JSON form of a model's answer, and return the answer unchanged.

        An object of the declared class passes unchecked.

        Raises
        ------
        ModelFailure
            Permanent, with the reason ``invalid_output``.
        """
        if isinstance(value, self.classes):
            return value
        try:
            plain = isinstance(value, PLAIN)
            self.accept(value if plain else codec.loads_own(codec.encode(value)), OUTPUT)
        except NotEncodable as error:
            raise failure(f"the output has no JSON form to check: {error}", OUTPUT) from None
        return value

    @property
    def summary(self) -> str:
        """A short text for a frame, such as ``page: integer, text?: string``."""
        return outline(self.json)

    def __repr__(self) -> str:
        return f"Schema({self.summary!r})"

    def words(self, found: Iterable[Mismatch], root: str) -> str:
        """Return the message for mismatches *found* below *root*."""
        return told(found, root, frozenset(names(self.json)))


def failure(message: str, reason: str) -> ModelFailure:
    """Return the permanent failure of a value that does not fit."""
    kind = "InvalidInput" if reason == INPUT else "InvalidOutput"
    return ModelFailure(message, reason=reason, permanent=True, kind=kind)


def library(name: str) -> Any:
    """Import the library *name* of the extra ``schema``.

    Raises
    ------
    InvalidModel
        When it is not installed, with the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0].replace("_", "-")
        raise InvalidModel(f"a schema needs {package}: {how_to_install('schema')}") from error
