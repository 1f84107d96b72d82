"""What lies in a watched folder and is no event, and why: for the doctor."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from typing import Literal

from mltrigger.broker import Finding
from mltrigger.sources.folder.files import entries, is_sayable, regular
from mltrigger.sources.folder.folder import Folder
from mltrigger.sources.folder.patterns import is_hidden

Kind = Literal["name", "case", "hidden", "unsayable", "link", "special", "folder", "unreadable"]
_EXAMPLES = 3


def findings(about: str, source: Folder, no_hints: str = "") -> Iterator[Finding]:
    """Yield what there is to say about the folder of *source*, which belongs to the subscription
    *about*.

    *no_hints* is why the system tells this process nothing of changes, if it does not.
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
    """Return the names of what is no event, by the reason."""
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
    """Return why the entry *name* is no event; ``None`` when it is one, or nobody can have meant
    it.
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


def _said(kind: Kind, names: list[str], about: str, source: Folder) -> Finding:
    shown = ", ".join(repr(name[:60]) for name in sorted(names)[:_EXAMPLES])
    shown += ", …" if len(names) > _EXAMPLES else ""
    n, pattern, folder = len(names), repr(source.pattern.text[:60]), repr(source.folder.name[:60])
    one = n == 1
    if kind == "name":
        what = (
            f"{n:,} file{'' if one else 's'} in {folder} {'does' if one else 'do'} not match"
            f" {pattern}: {shown}"
        )
        return Finding(
            "info",
            about,
            "files",
            what,
            "none if they are not meant; a pattern such as *.{csv,tsv} takes more",
        )
    if kind == "case":
        what = (
            f"{n:,} name{'' if one else 's'} in {folder} would match {pattern} in other upper and"
            f" lower case: {shown}"
        )
        return Finding(
            "warning",
            about,
            "files",
            what,
            "only the case of the extension is ignored: write the others out, {scan,SCAN}*",
        )
    if kind == "hidden":
        what = (
            f"{n:,} hidden file{'' if one else 's'} in {folder}: {shown}; a name that begins with a"
            " dot does not match"
        )
        return Finding(
            "info",
            about,
            "files",
            what,
            "none if it is still being written under that name; else rename it",
        )
    if kind == "unsayable":
        what = (
            f"{n:,} name{'' if one else 's'} in {folder} with a backslash or bytes that are not"
            f" UTF-8: {shown}; no event can carry that"
        )
        return Finding("warning", about, "files", what, "rename them")
    if kind == "link":
        what = (
            f"{n:,} link{'' if one else 's'} in {folder} to nothing, to a folder or out of it:"
            f" {shown}; links are followed inside only"
        )
        return Finding(
            "warning",
            about,
            "files",
            what,
            "put the file itself there, or subscribe to the folder that it lies in",
        )
    if kind == "special":
        what = (
            f"{n:,} pipe{', socket or device' if one else 's, sockets or devices'} in {folder}:"
            f" {shown}; only regular files are events"
        )
        return Finding("info", about, "files", what, "none")
    if kind == "folder":
        what = (
            f"{n:,} folder{'' if one else 's'} inside {folder}, where {pattern} does not match:"
            f" {shown}"
        )
        return Finding(
            "info",
            about,
            "files",
            what,
            "none if they are not meant; a pattern such as **/*.csv takes files at any depth",
        )
    what = f"{n:,} folder{'' if one else 's'} inside {folder} cannot be read: {shown}"
    return Finding("warning", about, "files", what, "permit this user to read them")
