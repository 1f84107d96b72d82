"""The place of a watched folder: from a URL, path or pattern to folder and pattern."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mltrigger.broker import HOW_FOLDERS_ARE_WRITTEN, scheme_of
from mltrigger.errors import InvalidName
from mltrigger.sources.folder.patterns import Pattern, is_wild

_SAFE = "*?[]!{},/"
"""Characters of a pattern that stay as they are in a URL. In the folder's name they are quoted."""
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")


class Place(NamedTuple):
    """The absolute path of a folder, and the pattern of its files."""

    folder: Path
    pattern: Pattern

    @property
    def url(self) -> str:
        """The canonical URL, for the registry. It holds an absolute path and is never shown."""
        pattern = urllib.parse.quote(os.fsencode(self.pattern.text), safe=_SAFE)
        return f"{self.folder.as_uri()}/{pattern}"


def folder_url(source: str | os.PathLike[str]) -> str:
    """Return the URL of a folder, from a URL, a path or a pattern.

    Raises
    ------
    InvalidName
        When it is a path of another system.
    """
    text = os.fspath(source)
    if not isinstance(text, str):
        raise InvalidName(
            f"a folder is given as text or pathlib.Path, not as bytes; {HOW_FOLDERS_ARE_WRITTEN}"
        )
    if isinstance(source, str) and (
        text[:5].lower() == "file:" or scheme_of(text) not in ("", "file")
    ):
        return source
    if os.name != "nt" and (_WINDOWS.match(text) or ("\\" in text and not Path(text).exists())):
        raise InvalidName(f"{text[:100]!r} is a path of Windows; {HOW_FOLDERS_ARE_WRITTEN}")
    return "file:" + urllib.parse.quote(os.fsencode(text), safe=_SAFE + "~")


def place_of(url: str) -> Place:
    """Return the place that *url* names. Its folder need not exist.

    Raises
    ------
    InvalidName
        When it names no folder of this machine, or has a pattern that is not understood.
    """
    # Not urlsplit: in a pattern "?" stands for one character, and "#" is good in a file name.
    scheme, _, rest = url.partition(":")
    host, slash, absolute = rest[2:].partition("/") if rest.startswith("//") else ("", "", rest)
    if (
        scheme.lower() != "file"
        or host not in ("", "localhost")
        or not (slash + absolute).strip("/")
    ):
        hint = (
            f"; from the working directory it is file:{host}/{absolute}"
            if host and scheme.lower() == "file"
            else ""
        )
        raise InvalidName(
            f"source {url[:100]!r} must be file:///folder/pattern, for example"
            f" file:///scans/*.png{hint[:160]}"
        )
    if "%00" in url or "\x00" in url:
        raise InvalidName(
            f"source {url[:100]!r} must be file:///folder/pattern: a name has no zero byte"
        )
    return _split(slash + absolute)


def _split(written: str) -> Place:
    """Split a path into folder and pattern.

    The pattern begins at the first part with wildcards, or at the first that is no folder.
    """
    root, parts = (
        Path("/" if written.startswith("/") else "."),
        [part for part in written.split("/") if part],
    )
    if (
        parts
        and parts[0].startswith("~")
        and root == Path()
        and not Path(_unquoted(parts[0])).exists()
    ):
        try:
            root = Path(_unquoted(parts[0])).expanduser()
        except RuntimeError:
            raise InvalidName(
                f"no home folder {_unquoted(parts[0])[:60]!r} on this machine"
            ) from None
        parts = parts[1:]
    folder = root
    for number, part in enumerate(parts):
        inner, last = folder / _unquoted(part), number == len(parts) - 1
        # A name with wildcards is taken for a folder's own when there is one.
        if inner.is_dir() or (not is_wild(part) and (not last or written.endswith("/"))):
            folder = inner
        elif last and is_wild(part) and inner.is_file():
            return Place(folder.resolve(), Pattern(re.sub(r"([*?\[{])", r"[\1]", _unquoted(part))))
        else:
            return Place(folder.resolve(), Pattern("/".join(map(_unquoted, parts[number:]))))
    return Place(folder.resolve(), Pattern("*"))


def _unquoted(part: str) -> str:
    return os.fsdecode(urllib.parse.unquote_to_bytes(part))


def topic_names(folder: Path) -> Iterable[str]:
    """Yield names for the topic of *folder*. Each has one more part of the path.

    Characters that SNS refuses are replaced.
    """
    *above, own = (re.sub(r"[^A-Za-z0-9_-]+", "-", part).strip("-") for part in folder.parts)
    name = own[:80] or "files"
    yield name
    for part in filter(None, reversed(above)):
        if len(name := f"{part}-{name}") > 80:
            return
        yield name


def told_apart(place: Place, others: list[Place]) -> str:
    """Return the shortest end of the path that *others* do not have, with the pattern."""
    parts = place.folder.parts
    for count in range(1, len(parts)):
        end = parts[-count:]
        if not any(
            other.folder.parts[-count:] == end and other.folder != place.folder for other in others
        ):
            return "/".join((*end, place.pattern.text))
    return "/".join((*parts[1:], place.pattern.text))
