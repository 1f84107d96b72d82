"""Files of a watched folder that are no events, with reasons, for the doctor."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from typing import Literal

from mltrigger.broker import Finding, Severity
from mltrigger.sources.folder.files import entries, is_sayable, regular
from mltrigger.sources.folder.folder import Folder
from mltrigger.sources.folder.patterns import is_hidden
from mltrigger.text import count

Kind = Literal["name", "case", "hidden", "unsayable", "link", "special", "folder", "unreadable"]
_EXAMPLES = 3


def findings(about: str, source: Folder, no_hints: str = "") -> Iterator[Finding]:
    """Yield the findings about the folder of *source*.

    *about* is the name of the subscription. *no_hints* is the reason why the system reports no
    changes to this process, if it does not.
    """
    folder = repr(source.folder.name[:60])
    try:
        left_out = _left_out(source)
    except OSError as error:
        yield Finding(
            "error",
            about,
            "folder",
            f"folder {folder} cannot be read: {error.strerror or type(error).__name__}; its files"
            " wait",
            "create, mount or permit it: it is looked at again by itself",
        )
        return
    for kind, names in left_out.items():
        yield _said(kind, names, about, source)
    if no_hints:
        yield Finding(
            "info",
            about,
            "folder",
            f"nothing tells of changes in {folder} ({no_hints}): its files are looked at every few"
            " seconds",
            "sysctl fs.inotify.max_user_watches and max_user_instances have the limits, pip install"
            " watchfiles the package",
        )


def _left_out(source: Folder) -> dict[Kind, list[str]]:
    """Return the names of files that are no events, by reason."""
    found: dict[Kind, list[str]] = defaultdict(list)
    unread = [""]
    while unread:
        below = unread.pop()
        try:
            for name, entry in entries(source.folder, below):
                if not entry.is_dir(follow_symlinks=False):
                    if (kind := _reason(source, name, entry)) is not None:
                        found[kind].append(name)
                elif source.pattern.reaches(name):
                    unread.append(name)
                elif not is_hidden(name):
                    found["folder"].append(name)
        except OSError:
            if not below:
                raise
            found["unreadable"].append(below)
    return found


def _reason(source: Folder, name: str, entry: os.DirEntry[str]) -> Kind | None:
    """Return why the entry *name* is no event.

    ``None`` for an event, and for a name that nobody can have meant.
    """
    pattern = source.pattern
    if is_hidden(name):
        above, slash, own = name.rpartition("/")
        return "hidden" if pattern.matches(above + slash + own.lstrip(".")) else None
    if not is_sayable(name):
        return "unsayable"
    if entry.is_symlink() and _leads_to_folder(entry):
        return "link"
    if not pattern.matches(name):
        return "case" if pattern.matches_but_for_case(name) else "name"
    if regular(source.folder, name) is None:
        return "link" if entry.is_symlink() else "special"
    return None


def _leads_to_folder(link: os.DirEntry[str]) -> bool:
    try:
        return link.is_dir()
    except OSError:  # it leads to itself, or where nobody may look
        return False


_SAYINGS: dict[Kind, tuple[Severity, str, str]] = {
    "name": (
        "info",
        "{files} in {folder} {do} not match {pattern}: {shown}",
        "none if they are not meant; a pattern such as *.{csv,tsv} takes more",
    ),
    "case": (
        "warning",
        "{names} in {folder} would match {pattern} in other upper and lower case: {shown}",
        "only the case of the extension is ignored: write the others out, {scan,SCAN}*",
    ),
    "hidden": (
        "info",
        "{hidden} in {folder}: {shown}; a name that begins with a dot does not match",
        "none if it is still being written under that name; else rename it",
    ),
    "unsayable": (
        "warning",
        "{names} in {folder} with a backslash or bytes that are not UTF-8: {shown}; no event can"
        " carry that",
        "rename them",
    ),
    "link": (
        "warning",
        "{links} in {folder} to nothing, to a folder or out of it: {shown}; links are followed"
        " inside only",
        "put the file itself there, or subscribe to the folder that it lies in",
    ),
    "special": (
        "info",
        "{pipes} in {folder}: {shown}; only regular files are events",
        "none",
    ),
    "folder": (
        "info",
        "{folders} inside {folder}, where {pattern} does not match: {shown}",
        "none if they are not meant; a pattern such as **/*.csv takes files at any depth",
    ),
    "unreadable": (
        "warning",
        "{folders} inside {folder} cannot be read: {shown}",
        "permit this user to read them",
    ),
}
"""Severity, finding and advice for each reason."""


def _said(kind: Kind, names: list[str], about: str, source: Folder) -> Finding:
    severity, finding, advice = _SAYINGS[kind]
    shown = ", ".join(repr(name[:60]) for name in sorted(names)[:_EXAMPLES])
    n = len(names)
    pipes = "pipe, socket or device" if n == 1 else "pipes, sockets or devices"
    said = finding.format(
        files=count(n, "file"),
        names=count(n, "name"),
        hidden=count(n, "hidden file"),
        links=count(n, "link"),
        folders=count(n, "folder"),
        pipes=f"{n:,} {pipes}",
        do="does" if n == 1 else "do",
        folder=repr(source.folder.name[:60]),
        pattern=repr(source.pattern.text[:60]),
        shown=shown + (", …" if n > _EXAMPLES else ""),
    )
    return Finding(severity, about, "files", said, advice)
