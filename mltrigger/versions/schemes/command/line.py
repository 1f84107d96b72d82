"""What an address such as ``command:./score --json`` says: which program, how it is spoken to, and
which files belong to it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import itertools
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mltrigger.errors import InvalidModel, ModelFailure, NotFound
from mltrigger.text import redacted
from mltrigger.versions.address import Address

MAX_FILE_BYTES = 64 * 1024 * 1024
"""A larger file counts with its size only: it is looked at whenever a worker starts."""
MAX_ANSWER_MB = 16

PASSED = ("PATH", "HOME", "LANG", "LC_*", "TZ", "TMPDIR")
"""What a program gets of the environment, beside what is named with ``env``."""
_OPTIONS: dict[str, type | tuple[type, ...]] = {
    "mode": str,
    "input": str,
    "output": str,
    "env": list,
    "cwd": str,
    "files": list,
    "max_answer_mb": (int, float),
}
_CHOICES = {
    "mode": ("lines", "each"),
    "input": ("data", "event", "text", "bytes"),
    "output": ("json", "text", "bytes"),
}
_SHELL = frozenset({"|", "||", "&&", ";", "&", ">", ">>", "<", "2>", "2>&1", "&>"})
# https://en.wikipedia.org/wiki/Shebang_(Unix): what runs a script that is named by an argument;
# node20 and python3.11 as well
_INTERPRETER = re.compile(
    r"(node|nodejs|deno|bun|python|pypy|ruby|perl|php|lua|luajit|awk|gawk|mawk|nawk|sed|sh|bash|dash|zsh|fish|ksh|tclsh|java|julia|"
    r"R|Rscript|octave|pwsh|dotnet|env|nice|timeout|stdbuf|uv|npx|jq)[\d.]*(\.exe)?"
)
_SUFFIX = re.compile(r"\.[A-Za-z]\w{0,5}$")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.-]+")
_SHOWN = 200


@dataclasses.dataclass(frozen=True, slots=True)
class CommandLine:
    """A program, and how it is spoken to: all of it decided when the model is registered, nothing
    of it by an event.

    Parameters
    ----------
    arguments : tuple of str
        The program and its arguments.
    mode : {"lines", "each"}
        One process that answers line by line, or one process an event.
    input : {"data", "event", "text", "bytes"}
        What it reads: the event's data as JSON; the whole event as a CloudEvent in JSON (structured
        mode); or the data as they are.
    output : {"json", "text", "bytes"}
        What it writes.
    env : tuple of str
        Names of further environment variables to hand on; ``AWS_*`` names all that begin so. They
        must be set where it runs.
    cwd : str, optional
        Where it runs, relative to the working directory of the process that calls it; other names
        of files are relative to it.
    files : tuple of str, optional
        The files whose content belongs to the version: other content is another version. Default:
        the program and its arguments, where these are files; name them when it writes to one of its
        arguments, or reads others.
    most_bytes : int
        Largest answer.
    """

    arguments: tuple[str, ...]
    mode: str = "lines"
    input: str = "data"
    output: str = "json"
    env: tuple[str, ...] = ()
    cwd: str | None = None
    files: tuple[str, ...] | None = None
    most_bytes: int = MAX_ANSWER_MB * 1024 * 1024

    @classmethod
    def of(cls, address: Address) -> CommandLine:
        """Return what *address* says, or raise InvalidModel or NotFound."""
        if redacted(address.text) != address.text:
            raise InvalidModel(
                "a command: model has a password, a key or a token among its arguments, where"
                " everybody can read it; have the program read an environment variable and name"
                " that with env=['…']"
            )
        options = address.checked(**_OPTIONS)
        for name, known in _CHOICES.items():
            if name in options and options[name] not in known:
                raise NotFound.of(f"{name} of command: models", options[name], known)
        line = cls(_arguments(address), **_fields(address, options))
        for name, what in (("input", line.input), ("output", line.output)):
            if what == "bytes" and line.mode == "lines":
                raise InvalidModel(
                    f"{_model(address)}: {name}='bytes' needs mode='each': bytes may hold line"
                    " breaks"
                )
        return line

    @property
    def program(self) -> str:
        """The program, as errors show it."""
        return Path(self.arguments[0]).name or self.arguments[0]

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """Return what the program gets of the environment *given*; raise ModelFailure when
        something named is not there.
        """
        for name in self.env:
            if not name.endswith("*") and name not in given:
                raise ModelFailure(
                    f"the environment variable {name}, which {self.program!r} is to have, is not"
                    " set where the model is called",
                    reason="no_process",
                    kind="NotFound",
                )
        names = (*PASSED, *self.env)
        starts = tuple(name[:-1] for name in names if name.endswith("*"))
        return {
            name: value
            for name, value in given.items()
            if name in names or (starts and name.startswith(starts))
        }

    def check_found(self) -> None:
        """Raise InvalidModel when the program cannot be run here, with what to do."""
        folder = Path(self.cwd or ".")
        if self.cwd is not None and not folder.is_dir():
            raise InvalidModel(f"cwd {self.cwd!r} is no folder here")
        program = self.arguments[0]
        if "/" not in program:
            if shutil.which(program) is None:
                raise InvalidModel(_unknown(program))
            return
        path = folder / program
        if not path.exists():
            near = difflib.get_close_matches(path.name, _names(path.parent), n=1)
            hint = f"; did you mean {near[0]!r} in the same folder?" if near else _hint(program)
            raise InvalidModel(
                f"there is no program {_shown(program)!r} in"
                f" {'cwd' if self.cwd else 'the working directory'}{hint}"
            )
        if path.is_dir():
            raise InvalidModel(f"{_shown(program)!r} is a folder, not a program")
        if not os.access(path, os.X_OK):
            raise InvalidModel(
                f"{_shown(program)!r} is not executable: chmod +x {shlex.quote(_shown(program))} (a"
                " script begins with a line such as #!/usr/bin/env node), or name what runs it:"
                " command:node score.js"
            )

    def name(self) -> str:
        """Return what to call the model: the script, without its suffix, or the program."""
        script = self.arguments[0]
        if _interprets(script):
            given = list(self.arguments[1:])
            files = [
                a for a in given if not a.startswith("-") and _is_file(Path(self.cwd or ".") / a)
            ]
            modules = [
                after.rpartition(".")[2] for a, after in itertools.pairwise(given) if a == "-m"
            ]
            script = next(iter([*modules, *files]), script)
        name = _NOT_IN_A_NAME.sub("-", _SUFFIX.sub("", Path(script).name))[:80].strip("-._")
        return name or "command"

    def fingerprint(self) -> str:
        """Return the SHA-256 over the files that belong to the version; empty when there are none."""
        found = hashlib.sha256()
        count = 0
        for count, (given, path) in enumerate(self._files(), 1):  # noqa: B007 - how many there were
            found.update(f"{given}\0{_digest(path)}\0".encode("utf-8", "surrogateescape"))
        return found.hexdigest() if count else ""

    def program_is_gone(self) -> bool:
        """Whether the program, named by a path, is not there: then its start says so."""
        return "/" in self.arguments[0] and not _is_file(Path(self.cwd or ".") / self.arguments[0])

    def paths(self) -> list[Path]:
        """Return these files; none when one that is named is not there, which is told elsewhere."""
        try:
            return [path for _, path in self._files()]
        except InvalidModel:
            return []

    def _files(self) -> Iterator[tuple[str, Path]]:
        folder = Path(self.cwd or ".")
        if self.files is not None:
            for name in self.files:
                if not _is_file(folder / name):
                    raise InvalidModel(
                        f"files: there is no file {name!r} in"
                        f" {'cwd' if self.cwd else 'the working directory'}"
                    )
                yield name, folder / name
            return
        program, *others = self.arguments
        if "/" in program and not _interprets(program):
            others.insert(0, program)
        for argument in others:
            name = (
                argument.partition("=")[2]
                if argument.startswith("-") and "=" in argument
                else argument
            )
            if name and _is_file(folder / name):
                yield name, folder / name


def _arguments(address: Address) -> tuple[str, ...]:
    try:
        arguments = tuple(shlex.split(address.rest))
    except ValueError as error:
        raise InvalidModel(
            f"{_model(address)}: {error}; it is split as a shell would, but no shell runs"
        ) from error
    if not arguments or not arguments[0]:
        raise InvalidModel(
            "a command: model names a program: command:./score --json, command:node score.js"
        )
    if "\0" in address.rest:
        raise InvalidModel("a command: model holds a NUL character, which no program can be given")
    with contextlib.suppress(ValueError):
        # with their quotes: what is quoted is meant as it is
        for word in shlex.split(address.rest, posix=False):
            if word in _SHELL:
                raise InvalidModel(
                    f"{_model(address)}: {word!r} is for a shell, and no shell runs; put the line"
                    " into a script, or quote it"
                )
    return arguments


def _fields(address: Address, options: dict[str, Any]) -> dict[str, Any]:
    """Return *options* as fields of a CommandLine, checked."""
    fields: dict[str, Any] = {name: options[name] for name in (*_CHOICES, "cwd") if name in options}
    for name in ("env", "files"):
        if name in options:
            if not all(
                isinstance(item, str) and item and "\0" not in item for item in options[name]
            ):
                raise InvalidModel(
                    f"{_model(address)}: option {name} must be a list of names, got"
                    f" {options[name]!r}"
                )
            fields[name] = tuple(options[name])
    if any("=" in name for name in fields.get("env", ())):
        raise InvalidModel(
            f"{_model(address)}: env names variables of the environment, without values, which"
            " would be stored"
        )
    if "max_answer_mb" in options:
        if not 0 < options["max_answer_mb"] <= 1024:
            raise InvalidModel(
                f"{_model(address)}: max_answer_mb must be from 0 to 1024, got"
                f" {options['max_answer_mb']!r}"
            )
        fields["most_bytes"] = max(1, int(options["max_answer_mb"] * 1024 * 1024))
    return fields


def _unknown(program: str) -> str:
    folders = [folder for folder in os.environ.get("PATH", os.defpath).split(os.pathsep) if folder]
    near = difflib.get_close_matches(
        program, {name for folder in folders for name in _names(Path(folder))}, n=3, cutoff=0.75
    )
    if _is_file(Path(program)):
        hint = f"; there is one in the working directory: command:./{program}"
    else:
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else _hint(program)
    return f"there is no program {_shown(program)!r} in the {len(folders)} folders of PATH{hint}"


def _hint(program: str) -> str:
    return (
        "; ~ and $VARIABLES mean nothing without a shell"
        if program.startswith("~") or "$" in program
        else ""
    )


def _interprets(program: str) -> bool:
    return _INTERPRETER.fullmatch(Path(program).name) is not None


def _names(folder: Path) -> Sequence[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return ()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # an argument that cannot be the name of a file
        return False


def stamp_of(path: Path) -> tuple[int, int] | None:
    """Return when the file was written, in nanoseconds, and its size; ``None`` when it is not
    there.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def digest_of(path: Path) -> str | None:
    """Return the SHA-256 of the file, of a very large one its size; ``None`` when it cannot be
    read.
    """
    try:
        return _digest(path)
    except InvalidModel:
        return None


def _digest(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            return f"{size} bytes"
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidModel(f"{path.name!r} cannot be read: {error.strerror}") from error


def _shown(path: str) -> str:
    """Return *path* as an error shows it: without the folders of this machine."""
    return (Path(path).name if path.startswith("/") else path)[:_SHOWN]


def _model(address: Address) -> str:
    return f"model {address.text[:_SHOWN]!r}"
