"""The option ``body`` of a JSON endpoint: a template such as ``{"instances": "{batch}"}``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mltrigger.errors import InvalidModel
from mltrigger.versions.schemes.http.templates import WHOLE, Form, Template
from mltrigger.versions.schemes.plain import dumped

BATCH = "batch"
"""The field for the items of all events of a call."""


class Body:
    """Makes the body of a request for one event, or for a batch.

    It is for a batch when the template has ``{batch}`` or ``{batch.field}``.

    Parameters
    ----------
    body : dict or list
        The option ``body``.
    item : any JSON
        The option ``item``: the form of each event in ``{batch}``.
    about : str
        The model, for errors.

    Raises
    ------
    InvalidModel
        When it is no template, or has fields that cannot be filled for a batch.
    """

    def __init__(self, body: Any, item: Any, about: str) -> None:
        self._form = Form(body, f"option body of {about}")
        self._item = Form("{data}" if item is None else item, f"option item of {about}")
        fields = {field for template in self._form.templates() for field in template.fields}
        self._columns = {field for field in fields if _is_of_a_batch(field)}
        self._check(fields, item, about)

    @classmethod
    def of(cls, options: Mapping[str, Any], about: str) -> Body | None:
        """Return the body that *options* describe, ``None`` without the option ``body``."""
        if "body" in options:
            return cls(options["body"], options.get("item"), about)
        if "item" in options:
            raise InvalidModel(
                f"{about}: option item is for the {{batch}} of option body, which is missing"
            )
        return None

    @property
    def is_batch(self) -> bool:
        """Whether one body is for several events."""
        return bool(self._columns)

    def part(self, data: Any) -> dict[str, Any]:
        """Return the values of one event for the fields of a batch.

        Raises
        ------
        ModelFailure
            For the event alone, naming the missing field.
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

        def leaf(template: Template, _: str) -> Any:
            if template.field in self._columns:
                return [part[template.field] for part in parts]
            return template.value({})

        return dumped(self._form.fill(leaf))

    def of_one(self, data: Any) -> bytes:
        """Return the body for one event, of a template without ``{batch}``."""
        return dumped(self._form.fill(lambda leaf, _: leaf.value(data)))

    def _check(self, fields: set[str], item: Any, about: str) -> None:
        for template in self._form.templates():
            if template.field is None and any(map(_is_of_a_batch, template.fields)):
                raise InvalidModel(
                    f"option body of {about}: {{{BATCH}}} is a list and stands alone in its text:"
                    f" {{'rows': '{{{BATCH}}}'}}"
                )
        of_item = {field for template in self._item.templates() for field in template.fields}
        if any(map(_is_of_a_batch, of_item)):
            raise InvalidModel(
                f"option item of {about} is one event of the batch: {{{BATCH}}} has no place in it"
            )
        if item is not None and BATCH not in self._columns:
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
