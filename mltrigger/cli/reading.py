"""Reads the data of one event from the command line or from standard input."""

from __future__ import annotations

import codecs
import contextlib
import json
import sys
import warnings
from collections.abc import Iterator

from mltrigger.errors import InvalidEvent, warn
from mltrigger.event import codec
from mltrigger.text import one_line, redacted, short

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read(argument: str, as_text: bool) -> object:
    """Return the data in *argument*: JSON, or text with *as_text*. ``-`` reads standard input.

    Raises
    ------
    InvalidEvent
        When it is no UTF-8, no JSON, empty, or more than one value.
    """
    from_input = argument == "-"
    text = _decoded(sys.stdin.buffer.read()) if from_input else argument
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidEvent(
            "the data is not UTF-8: convert it first, for example with iconv", "bad_encoding"
        )
    if as_text:
        return text
    if from_input and not text.strip():
        raise InvalidEvent(
            "standard input is empty: pipe one JSON value into it, or say --text for an empty text",
            "empty_body",
        )
    try:
        data = codec.loads(text)
    except InvalidEvent as error:
        raise InvalidEvent(f"{error}; {_advice(text, from_input)}", error.reason) from error
    if (key := codec.repeated_key(text.encode())) is not None:
        warn(f"the data has the key {short(key)!r} twice in one object: the last value counts")
    return data


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Print warnings as plain messages, without their place in the code."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        print(f"mltrigger: {one_line(redacted(str(message)))}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield


def _decoded(raw: bytes) -> str:
    if raw.startswith(_UTF16):
        raise InvalidEvent(
            "standard input is UTF-16: convert it with iconv -f utf-16 -t utf-8", "bad_encoding"
        )
    try:
        return raw.decode("utf-8-sig")  # a byte order mark is no part of the data
    except UnicodeDecodeError as error:
        where = f"byte 0x{raw[error.start]:02x} at position {error.start}"
        raise InvalidEvent(
            f"standard input is not UTF-8 ({where}): convert it, such as iconv -f latin1 -t utf-8",
            "bad_encoding",
        ) from None


def _advice(text: str, from_input: bool) -> str:
    """Return advice for *text*, which is no JSON."""
    if text.startswith("@") and not from_input:
        return f"@file is not known here: publish TOPIC - < {text[1:] or 'file'} reads one"
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and all(map(_is_json, lines)):
        return (
            f"these are {len(lines)} JSON values, one a line, and publish takes one: call it once a"
            " line, or make them a JSON array"
        )
    shown = json.dumps(text if len(text) <= 40 else f"{text[:40]}…", ensure_ascii=False)
    return f"quote it as JSON ({shown}), or say --text"


def _is_json(line: str) -> bool:
    try:
        codec.loads(line)
    except InvalidEvent:
        return False
    return True
