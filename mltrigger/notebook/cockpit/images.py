"""Images of events, known by their first bytes alone. A media type may say anything."""

from __future__ import annotations

import base64

MOST_BYTES = 2 * 1024 * 1024
"""The largest image that is shown."""
_BEGINNINGS = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
}
_WEBP = b"RIFF", b"WEBP"


def media_type_of(data: bytes) -> str | None:
    """Return the media type of a PNG, JPEG, GIF or WebP image. ``None`` for all else."""
    for begins, media_type in _BEGINNINGS.items():
        if data.startswith(begins):
            return media_type
    return "image/webp" if (data[:4], data[8:12]) == _WEBP else None


def too_large(data: bytes) -> str:
    """Return why an image is not shown. Empty for one that is, and for all else."""
    if media_type_of(data) is None or len(data) <= MOST_BYTES:
        return ""
    size, most = (n / 1024 / 1024 for n in (len(data), MOST_BYTES))
    return f"An image of {size:,.1f} MB. Images up to {most:g} MB are shown."


def data_url(data: bytes) -> str | None:
    """Return an image as a URL that holds it. ``None`` for anything else, and for a large one.

    An SVG is never shown: it can hold a script.
    """
    media_type = media_type_of(data)
    if media_type is None or len(data) > MOST_BYTES:
        return None
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
