"""The body that a JSON endpoint wants, as a template: ``{"instances": "{batch}"}``, ``{"inputs":
"{text}"}``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mltrigger.errors import InvalidModel
from mltrigger.versions.schemes.http.templates import WHOLE, Form, Template

BATCH = "batch"
"""The field that stands for the items of all events of a call."""


class Body:
    """Makes the body of a request: of one event, or of a batch where the template has ``{batch}``
    or ``{batch.field}``.

    Parameters
    ----------
    body : dict or list
        The option ``body``.
    item : any JSON
        The option ``item``: what stands for each event in ``{batch}``.
    about : str
        The model, for errors.

    Raises
    ------
    InvalidModel
        For what is no template, and for fields that could not be filled for a batch.
    """

    def __init__(self, body: Any, item: Any, about: str) -> None:
        self._form = Form(body, f"option body of {about}")
        self._item = Form("{data}" if item is None else item, f"option item of {about}")
        fields = {field for template in self._form.templates() for field in template.fields}
        self._columns = {field for field in fields if _is_of_a_batch(field)}
        self._check(fields, item, about)

    @property
    def is_batch(self) -> bool:
        """Whether one body is for several events."""
        return bool(self._columns)

    def part(self, data: Any) -> dict[str, Any]:
        """Return what an event of a batch gives to each field of the body.

        Raises
        ------
        ModelFailure
            For the event alone, naming the field that it has not.
        """
        found: dict[str, Any] = {}
        for column in self._columns:
            inner = column.partition(".")[2]
            found[column] = (
                Template(f"{{{inner}}}", column).value(data)
                if inner
                else self._item.fill(lambda leaf, _: leaf.value(data))
            )
        return found

    def of_batch(self, parts: Sequence[Mapping[str, Any]]) -> bytes:
        """Return the body for the events with these *parts*."""
        return _json(
            self._form.fill(
                lambda leaf, _: (
                    [part[leaf.field] for part in parts]
                    if leaf.field in self._columns
                    else leaf.value({})
                )
            )
        )

    def of_one(self, data: Any) -> bytes:
        """Return the body for one event, of a template without ``{batch}``."""
        return _json(self._form.fill(lambda leaf, _: leaf.value(data)))

    def _check(self, fields: set[str], item: Any, about: str) -> None:
        for template in self._form.templates():
            if template.field is None and any(map(_is_of_a_batch, template.fields)):
                raise InvalidModel(
                    f"option body of {about}: {{{BATCH}}} is a list and stands alone in its text:"
                    f" {{'rows': '{{{BATCH}}}'}}"
                )
        if any(
            _is_of_a_batch(field)
            for template in self._item.templates()
            for field in template.fields
        ):
            raise InvalidModel(
                f"option item of {about} is one event of the batch: {{{BATCH}}} has no place in it"
            )
        if item is not None and f"{BATCH}" not in self._columns:
            raise InvalidModel(
                f"option item of {about} stands for each event where option body has {{{BATCH}}},"
                " and it has none"
            )
        if self._columns and (others := sorted(fields - self._columns)):
            raise InvalidModel(
                f"option body of {about}: {{{others[0]}}} differs from event to event of a batch;"
                " put it into the option item, or write"
                f" {{{BATCH}{'' if others[0] == WHOLE else '.' + others[0]}}} for the list of all"
            )


def _is_of_a_batch(field: str) -> bool:
    return field.partition(".")[0] == BATCH


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
