"""Patterns of file names: ``*``, ``?``, ``[…]``, ``{a,b}`` and ``**`` for folders at any depth."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator

from mltrigger.errors import InvalidName

_MAX_ALTERNATIVES = 256
_WILD = re.compile(r"[*?\[{]")
_RANGE = re.compile(r"\{[^{},]*\.\.[^{},]*\}")
# Several patterns in one: "*.png,*.jpg", "*.png;*.jpg", "*.png | *.jpg", "*.png, jpg", and "*.png
# *.jpg".
_LIST = re.compile(r"[,;|]\s*(?:\*|\.|\w{1,5}$)|^\*\.\w+\s+\*\.\w+")


def is_wild(text: str) -> bool:
    """Whether *text* matches several names."""
    return _WILD.search(text) is not None


class Pattern:
    """A pattern for files of a folder. Names are relative to it, with ``/`` between folders.

    The extension matches in upper and lower case, as devices write ``.PNG`` and ``.JPG``. Elsewhere
    the case counts. A name that begins with a dot is hidden. It never matches, nor does a file
    inside a hidden folder.

    Parameters
    ----------
    text : str
        ``*.png``, ``*.{png,jpg}``, ``**/*.png``, ``2026-*/scan?.tif``.
    """

    def __init__(self, text: str) -> None:
        _check(text)
        self.text = text
        parts = text.split("/")
        self.depth: int | None = None if "**" in parts else len(parts) - 1
        """How many folders down names can match; ``None`` for any number."""
        alternatives = list(_expanded(text))
        self._match = re.compile(
            "|".join(f"(?:{_regex(each)})" for each in alternatives), re.DOTALL
        ).fullmatch
        self._match_any_case = re.compile(
            "|".join(f"(?:{_regex(each)})" for each in alternatives), re.DOTALL | re.IGNORECASE
        ).fullmatch

    def matches(self, name: str) -> bool:
        """Whether the file *name* matches."""
        return self._match(name) is not None and not is_hidden(name)

    def matches_but_for_case(self, name: str) -> bool:
        """Whether only upper and lower case keep *name* from matching."""
        return self._match_any_case(name) is not None and not is_hidden(name)

    def reaches(self, folder: str) -> bool:
        """Whether files inside *folder*, a name relative to the watched one, can match."""
        return not is_hidden(folder) and (self.depth is None or folder.count("/") < self.depth)


def is_hidden(name: str) -> bool:
    """Whether a part of *name* begins with a dot."""
    return name.startswith(".") or "/." in name


def _check(text: str) -> None:
    outside = re.sub(r"\{[^{}]*\}|\[[^\]]*\]", "_", text)
    if is_wild(text) and _LIST.search(outside):
        parts = [
            part.strip().removeprefix("*").removeprefix(".") for part in re.split(r"[,;|\s]+", text)
        ]
        raise InvalidName(
            f"pattern {text[:100]!r} looks like several: write them as one, such as"
            f" *.{{{','.join(parts)[:60]}}}, or subscribe once for each; a separator that belongs"
            " to the name is written in brackets, [,]"
        )
    if _RANGE.search(text):
        raise InvalidName(
            f"pattern {text[:100]!r} has a range: write the names out, {{1,2,3}}, or one of several"
            " characters, [1-3]"
        )


def _expanded(text: str) -> Iterator[str]:
    """Yield the patterns without braces that *text* means.

    Braces without a comma are literal.
    """
    found = [text]
    while any(_first_group(each) for each in found):
        found = [new for each in found for new in _opened(each)]
        if len(found) > _MAX_ALTERNATIVES:
            raise InvalidName(
                f"pattern {text[:100]!r} stands for more than {_MAX_ALTERNATIVES} patterns:"
                " subscribe to a wider one"
            )
    yield from dict.fromkeys(found)


def _opened(text: str) -> list[str]:
    group = _first_group(text)
    if group is None:
        return [text]
    start, end, choices = group
    return [text[:start] + choice + text[end:] for choice in choices]


def _first_group(text: str) -> tuple[int, int, list[str]] | None:
    """Return the first braces with a comma: their start, their end and the choices inside."""
    for start, character in enumerate(text):
        if character != "{":
            continue
        depth, choices, last = 0, [], start + 1
        for at in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            if (text[at] == "," and depth == 1) or (text[at] == "}" and depth == 0):
                choices.append(text[last:at])
                last = at + 1
            if depth == 0:
                if len(choices) > 1:
                    return start, at + 1, choices
                break
    return None


def _regex(text: str) -> str:
    """Return the regular expression of a pattern without braces.

    The case of its extension does not matter.
    """
    *folders, name = text.split("/")
    found = "".join("(?:[^/]+/)*" if part == "**" else f"{_part(part)}/" for part in folders)
    if name == "**":
        return found + "(?:[^/]+/)*[^/]+"
    stem, dot, extension = name.rpartition(".")
    if not dot or "]" in extension.partition("[")[0]:  # no dot, or one inside brackets
        return found + _part(name)
    return f"{found}{_part(stem)}\\.(?i:{_part(extension)})"


def _part(text: str) -> str:
    """Return the regular expression of one part between slashes."""
    found, at = "", 0
    while at < len(text):
        character, at = text[at], at + 1
        if character == "*":
            found += "[^/]*"
        elif character == "?":
            found += "[^/]"
        elif character == "[" and (end := text.find("]", at + 1 + text.startswith("!", at))) >= 0:
            found += "(?!/)" + fnmatch.translate(text[at - 1 : end + 1])[len("(?s:") : -len(r")\Z")]
            at = end + 1
        else:
            found += re.escape(character)
    return found
