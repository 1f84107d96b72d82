"""Templates over an event's data: ``"Summarise: {text}"``, or JSON with such texts.

A field is a name or a path. Other parts of ``str.format`` are refused.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from mltrigger.errors import InvalidModel
from mltrigger.text import short
from mltrigger.versions.schemes.failures import unfit
from mltrigger.versions.schemes.plain import Binary, base64_text, plain

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_FIELD = re.compile(r"[^\W\d][\w-]*(?:\.[\w-]+)*")
_FIELD_IN_A_NAME = re.compile(r"\{[^{}]*\}")
WHOLE = "data"
"""The field for all of the data."""


class Template:
    r"""A text with fields such as ``{name}``, ``{name.inner}``, ``{list.0}`` and ``{data}``.

    ``{data}`` is all of the data. ``{{`` and ``}}`` are braces. Fields are looked up in JSON values
    only: no attribute of an object, no conversion, no format. Text is put in as it is, other values
    as JSON. The result is never read as a template again.
    """

    def __init__(self, text: str, about: str) -> None:
        """Read *text*. *about* is its place, for errors.

        Raises
        ------
        InvalidModel
            With the problem and its place.
        """
        self._pieces: list[tuple[str, str | None]] = []
        end = 0
        for found in _PIECE.finditer(text):
            self._pieces.append((text[end : found.start()], None))
            end = found.end()
            if found[0] in ("{{", "}}"):
                self._pieces.append((found[0][0], None))
            elif found[1] is None or not _FIELD.fullmatch(found[1]):
                raise InvalidModel(
                    f"{about}: {short(found[0])!r} at character {found.start()} is no field: write"
                    " {name}, {name.inner} or {data}; a brace itself is {{ or }}"
                )
            else:
                self._pieces.append(("", found[1]))
        self._pieces.append((text[end:], None))

    @property
    def field(self) -> str | None:
        """The field, when it is all of the template: ``{photo}``. Else ``None``."""
        pieces = [
            (literal, field) for literal, field in self._pieces if literal or field is not None
        ]
        return pieces[0][1] if len(pieces) == 1 else None

    @property
    def fields(self) -> set[str]:
        """The fields in it."""
        return {field for _, field in self._pieces if field is not None}

    def fill(
        self, data: Any, named: Mapping[str, Any] | None = None, binary: Binary | None = None
    ) -> str:
        """Return the text for *data*.

        Parameters
        ----------
        named : mapping, optional
            Fields that are not looked up in the data.
        binary : callable, optional
            The form of bytes. By default they are text in UTF-8.

        Raises
        ------
        ModelFailure
            For the event alone: a field is missing, or bytes are no text.
        """
        binary = binary or decoded
        if isinstance(data, bytes):
            data = binary(data)
        return "".join(
            literal if field is None else _text(_found(data, field, named), binary)
            for literal, field in self._pieces
        )

    def value(
        self, data: Any, named: Mapping[str, Any] | None = None, binary: Binary | None = None
    ) -> Any:
        """Return the value of the field that is all of the template, else the text.

        ``{age}`` becomes ``34``, not ``"34"``.
        """
        binary = binary or base64_text
        if self.field is None:
            return self.fill(data, named, binary)
        if named and self.field in named:
            return named[self.field]
        return plain(_found(data, self.field), binary=binary)


class Form:
    """JSON whose texts are templates: ``{"instances": [{"age": "{age}"}], "note": "of {name}"}``.

    Names of members are no templates.
    """

    def __init__(self, value: Any, about: str) -> None:
        """Read *value*. *about* is its place, for errors.

        Raises
        ------
        InvalidModel
            With the problem and its place.
        """
        self._root = _read(value, about)

    def templates(self) -> list[Template]:
        """Return all templates in it."""
        found: list[Template] = []
        self.fill(lambda template, _: found.append(template))
        return found

    def fill(self, leaf: Callable[[Template, str], Any]) -> Any:
        """Return the JSON with each template replaced by the result of *leaf*.

        *leaf* gets the template and the name of its member.
        """
        return _filled(self._root, "", leaf)


def _read(value: Any, about: str, path: str = "") -> Any:
    where = f"{about} at {path.removeprefix('.')}" if path else about
    if isinstance(value, str):
        return Template(value, where)
    if isinstance(value, dict):
        if wrong := next((name for name in value if _FIELD_IN_A_NAME.search(name)), None):
            raise InvalidModel(
                f"{where}: {short(wrong)!r} is the name of a member, and fields stand in values"
                " only"
            )
        return {name: _read(inner, about, f"{path}.{name}") for name, inner in value.items()}
    if isinstance(value, list):
        return [_read(inner, about, f"{path}[{number}]") for number, inner in enumerate(value)]
    return value


def _filled(value: Any, name: str, leaf: Callable[[Template, str], Any]) -> Any:
    if isinstance(value, Template):
        return leaf(value, name)
    if isinstance(value, dict):
        return {name: _filled(inner, name, leaf) for name, inner in value.items()}
    return [_filled(inner, name, leaf) for inner in value] if isinstance(value, list) else value


def _found(data: Any, field: str, named: Mapping[str, Any] | None = None) -> Any:
    if named and field in named:
        return named[field]
    if field == WHOLE:
        return data
    value, path = data, ""
    for step in field.split("."):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step[:9]) < len(value):
            value = value[int(step)]
        else:
            raise unfit(_missing(value, field, path, step))
        path = f"{path}.{step}" if path else step
    return value


def _missing(value: Any, field: str, path: str, step: str) -> str:
    where = f"data.{path}" if path else "the data"
    if not isinstance(value, dict):
        return (
            f"the template wants {{{field}}}, but {where} is of type {type(value).__name__},"
            " without fields; {data} is the whole"
        )
    names = [name for name in value if isinstance(name, str)]
    near = difflib.get_close_matches(step, names, n=3) or sorted(names)[:8]
    hint = f"there is {', '.join(repr(short(name)) for name in near)}" if near else "it is empty"
    return f"the template wants {{{field}}}, but {where} has no field {step!r}; {hint}"


def _text(value: Any, binary: Binary) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return str(binary(value))
    return json.dumps(plain(value, binary=binary), ensure_ascii=False)


def decoded(raw: bytes) -> str:
    """Return *raw* as text in UTF-8, or raise the failure of its event."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise unfit("the data are bytes that are no text (UTF-8)") from error
