"""The messages of a chat: templates of text, and of parts such as images and sound."""

from __future__ import annotations

import functools
import mimetypes
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mltrigger.errors import InvalidEvent, InvalidModel
from mltrigger.event.event import Event
from mltrigger.text import short
from mltrigger.versions.schemes.failures import unfit
from mltrigger.versions.schemes.http.templates import WHOLE, Form, Template, decoded
from mltrigger.versions.schemes.plain import Binary, base64_text

OBJECT = "object"
"""The field for the bytes of ``event.open()``, unless the data have a field of that name."""
MAX_OBJECT_BYTES = 64 * 1024 * 1024
# The first bytes of files of these types: https://www.iana.org/assignments/media-types
_BEGINNINGS = (
    (b"\x89PNG\r\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"%PDF-", "application/pdf"),
    (b"OggS", "audio/ogg"),
    (b"ID3", "audio/mpeg"),
    (b"fLaC", "audio/flac"),
)
_MEDIA_TYPE = re.compile(r"[a-z]+/[\w.+-]+", re.ASCII)
_RIFF = {b"WEBP": "image/webp", b"WAVE": "audio/wav"}


class Messages:
    """All messages of a chat, as templates: ``[{"role": "user", "content": "About {text}"}]``.

    A content may be a list of parts, whose texts are templates. There bytes of an event become
    base64. They become a data URL where they are all of a member called ``url``.
    """

    def __init__(self, given: Sequence[tuple[str, Any]]) -> None:
        """Read the messages. Each comes with its place, for errors.

        Raises
        ------
        InvalidModel
            With the problem and its place.
        """
        self._messages: list[tuple[str, Template | Form]] = []
        for where, message in given:
            if (
                not isinstance(message, dict)
                or set(message) != {"role", "content"}
                or not isinstance(message["role"], str)
            ):
                raise InvalidModel(
                    f"{where} must be {{'role': 'user', 'content': 'a template'}}, got"
                    f" {short(message)}"
                )
            self._messages.append((message["role"], _content(message["content"], where)))
        self._opens = any(
            field.partition(".")[0] == OBJECT
            for template in self._templates()
            for field in template.fields
        )

    def fill(self, event: Event) -> list[dict[str, Any]]:
        """Return the messages for *event*.

        Raises
        ------
        ModelFailure
            For the event alone: a field is missing, bytes are no text, or it announces no object.
        """
        has_field = isinstance(event.data, Mapping) and OBJECT in event.data
        named = {OBJECT: _object(event)} if self._opens and not has_field else None
        return [
            {"role": role, "content": _filled(content, event, named)}
            for role, content in self._messages
        ]

    def _templates(self) -> Iterator[Template]:
        for _, content in self._messages:
            yield from [content] if isinstance(content, Template) else content.templates()


def _content(given: Any, where: str) -> Template | Form:
    if isinstance(given, str):
        return Template(given, where)
    if (
        not isinstance(given, list)
        or not given
        or not all(isinstance(part, dict) and isinstance(part.get("type"), str) for part in given)
    ):
        raise InvalidModel(
            f"{where}: content must be a template, or a list of parts such as {{'type': 'text',"
            " 'text': 'What is this?'} and {'type': 'image_url', 'image_url': {'url':"
            f" '{{photo}}'}}}}; got {short(given)}"
        )
    return Form(given, where)


def _filled(content: Template | Form, event: Event, named: Mapping[str, Any] | None) -> Any:
    if isinstance(content, Template):
        return content.fill(event.data, named)

    def leaf(template: Template, name: str) -> str:
        binary: Binary = decoded if name == "text" else base64_text
        if name == "url" and template.field is not None:
            binary = functools.partial(_data_url, event=event, field=template.field)
        return template.fill(event.data, named, binary)

    return content.fill(leaf)


def _data_url(raw: bytes, event: Event, field: str) -> str:
    return f"data:{_media_type(raw, event, field)};base64,{base64_text(raw)}"


def _media_type(raw: bytes, event: Event, field: str) -> str:
    """Return the media type of *raw* by its first bytes, else by the event."""
    if raw[:4] == b"RIFF" and raw[8:12] in _RIFF:
        return _RIFF[raw[8:12]]
    found = next((kind for beginning, kind in _BEGINNINGS if raw.startswith(beginning)), None)
    if found is not None:
        return found
    said = event.datacontenttype if field == WHOLE else None
    if field == OBJECT:
        said = mimetypes.guess_type(event.subject or "")[0]
    return said if said and _MEDIA_TYPE.fullmatch(said) else "application/octet-stream"


def _object(event: Event) -> bytes:
    try:
        with event.open() as file:
            raw = file.read(MAX_OBJECT_BYTES + 1)
    except InvalidEvent as error:
        if error.reason != "nothing_to_open":
            raise
        raise unfit(f"the template wants {{{OBJECT}}}: {error}") from error
    if len(raw) > MAX_OBJECT_BYTES:
        raise unfit(
            f"the object has more than {MAX_OBJECT_BYTES >> 20} MiB, too many for a message"
        )
    return raw
