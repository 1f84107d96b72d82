"""Templates over an event's data: ``"Summarise: {text}"``. Names and paths, and nothing else that ``str.format`` would do."""

from __future__ import annotations

import difflib
import json
import re
from typing import Any

from mltrigger.errors import InvalidModel, ModelFailure
from mltrigger.models.schemes.plain import plain
from mltrigger.render import short

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_FIELD = re.compile(r"[^\W\d][\w-]*(?:\.[\w-]+)*")
WHOLE = "data"


class Template:
    r"""A text with ``{field}``, ``{field.sub}``, ``{list.0}`` and ``{data}``, which is all of the data; ``{{`` and ``}}`` are braces.

    Fields are looked up in JSON values only: no attribute of an object, no conversion, no format. Text is put in as it is, anything else as
    JSON. What is put in is never read as a template again.
    """

    def __init__(self, text: str, about: str) -> None:
        """Read *text*; *about* says in errors where it stands.

        Raises
        ------
        InvalidModel
            With what is wrong, and where.
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
                    f"{about}: {short(found[0])!r} at character {found.start()} is no field: write {{name}}, {{name.inner}} or {{data}}; "
                    "a brace itself is {{ or }}"
                )
            else:
                self._pieces.append(("", found[1]))
        self._pieces.append((text[end:], None))

    def fill(self, data: Any) -> str:
        """Return the text for *data*.

        Raises
        ------
        ModelFailure
            For the event alone: naming the field that it has not, or because its data are bytes that are no text (UTF-8).
        """
        if isinstance(data, bytes):
            data = _decoded(data)
        return "".join(literal if field is None else _text(_found(data, field)) for literal, field in self._pieces)


def _found(data: Any, field: str) -> Any:
    if field == WHOLE:
        return data
    value, path = data, ""
    for step in field.split("."):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step[:9]) < len(value):
            value = value[int(step)]
        else:
            raise ModelFailure(_missing(value, field, path, step), reason="invalid_input", permanent=True)
        path = f"{path}.{step}" if path else step
    return value


def _missing(value: Any, field: str, path: str, step: str) -> str:
    where = f"data.{path}" if path else "the data"
    if not isinstance(value, dict):
        return f"the template wants {{{field}}}, but {where} is of type {type(value).__name__}, without fields; {{data}} is the whole"
    names = [name for name in value if isinstance(name, str)]
    near = difflib.get_close_matches(step, names, n=3) or sorted(names)[:8]
    hint = f"there is {', '.join(repr(short(name)) for name in near)}" if near else "it is empty"
    return f"the template wants {{{field}}}, but {where} has no field {step!r}; {hint}"


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(plain(value, binary=_decoded), ensure_ascii=False)


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ModelFailure("the data are bytes that are no text (UTF-8)", reason="invalid_input", permanent=True) from error
