"""An address such as ``command:./score --json``: the program, its protocol and its files."""

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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mltrigger.errors import InvalidModel, ModelFailure, NotFound
from mltrigger.text import redacted
from mltrigger.versions.address import Address
from mltrigger.versions.schemes.command.files import digest, is_file, names_in
from mltrigger.versions.schemes.options import model_name

MAX_ANSWER_MB = 16

PASSED = ("PATH", "HOME", "LANG", "LC_*", "TZ", "TMPDIR")
"""Environment variables that each program gets, besides those of ``env``."""
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
# Programs that run a script, https://en.wikipedia.org/wiki/Shebang_(Unix). Also node20, python3.11.
_INTERPRETER = re.compile(
    r"(node|nodejs|deno|bun|python|pypy|ruby|perl|php|lua|luajit|awk|gawk|mawk|nawk|sed|sh|bash|dash|zsh|fish|ksh|tclsh|java|julia|"
    r"R|Rscript|octave|pwsh|dotnet|env|nice|timeout|stdbuf|uv|npx|jq)[\d.]*(\.exe)?"
)
_SUFFIX = re.compile(r"\.[A-Za-z]\w{0,5}$")
_SHOWN = 200


@dataclasses.dataclass(frozen=True, slots=True)
class CommandLine:
    """A program and its protocol. They are fixed by the registration, never by an event.

    Parameters
    ----------
    arguments : tuple of str
        The program and its arguments.
    mode : {"lines", "each"}
        One process that answers line by line, or one process for each event.
    input : {"data", "event", "text", "bytes"}
        Its input. ``data``: the event's data as JSON. ``event``: the whole event as a CloudEvent in
        JSON (structured mode). ``text``, ``bytes``: the data as they are.
    output : {"json", "text", "bytes"}
        Its output.
    env : tuple of str
        Names of more environment variables to pass. ``AWS_*`` means all with that beginning. They
        must be set where it runs.
    cwd : str, optional
        Its working directory, relative to that of the calling process. Other names of files are
        relative to it.
    files : tuple of str, optional
        The files whose content is the version. Other content is another version. Default: the
        program and its arguments, where these are files. Name the files when it reads others, or
        writes to one of its arguments.
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
        """Return the command line of *address*, or raise InvalidModel or NotFound."""
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
        """Return the part of the environment *given* that the program gets.

        Raises
        ------
        ModelFailure
            When a named variable is not set.
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
        """Raise InvalidModel, with advice, when the program cannot be run here."""
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
            near = difflib.get_close_matches(path.name, names_in(path.parent), n=1)
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
        """Return a name for the model: that of the script without its suffix, or the program's."""
        script = self.arguments[0]
        if _interprets(script):
            given, folder = self.arguments[1:], Path(self.cwd or ".")
            files = [a for a in given if not a.startswith("-") and is_file(folder / a)]
            pairs = itertools.pairwise(given)
            modules = [after.rpartition(".")[2] for a, after in pairs if a == "-m"]
            script = next(iter([*modules, *files]), script)
        return model_name(_SUFFIX.sub("", Path(script).name), "command")

    def fingerprint(self) -> str:
        """Return the SHA-256 over the files of the version, empty when there are none."""
        sums = [f"{given}\0{digest(path)}\0" for given, path in self._files()]
        raw = "".join(sums).encode("utf-8", "surrogateescape")
        return hashlib.sha256(raw).hexdigest() if sums else ""

    def program_is_gone(self) -> bool:
        """Whether the program is named by a path, and is not there."""
        return "/" in self.arguments[0] and not is_file(Path(self.cwd or ".") / self.arguments[0])

    def paths(self) -> list[Path]:
        """Return the files of the version, none when a named one is missing."""
        try:
            return [path for _, path in self._files()]
        except InvalidModel:
            return []

    def _files(self) -> Iterator[tuple[str, Path]]:
        folder = Path(self.cwd or ".")
        if self.files is not None:
            for name in self.files:
                if not is_file(folder / name):
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
            is_option = argument.startswith("-") and "=" in argument
            name = argument.partition("=")[2] if is_option else argument
            if name and is_file(folder / name):
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
        # With their quotes: a quoted word is meant as it is.
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
            given = options[name]
            if not all(isinstance(item, str) and item and "\0" not in item for item in given):
                raise InvalidModel(
                    f"{_model(address)}: option {name} must be a list of names, got {given!r}"
                )
            fields[name] = tuple(given)
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
        program, {name for folder in folders for name in names_in(Path(folder))}, n=3, cutoff=0.75
    )
    if is_file(Path(program)):
        hint = f"; there is one in the working directory: command:./{program}"
    else:
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else _hint(program)
    return f"there is no program {_shown(program)!r} in the {len(folders)} folders of PATH{hint}"


def _hint(program: str) -> str:
    is_for_a_shell = program.startswith("~") or "$" in program
    return "; ~ and $VARIABLES mean nothing without a shell" if is_for_a_shell else ""


def _interprets(program: str) -> bool:
    return _INTERPRETER.fullmatch(Path(program).name) is not None


def _shown(path: str) -> str:
    """Return *path* as errors show it, without the folders of this machine."""
    return (Path(path).name if path.startswith("/") else path)[:_SHOWN]


def _model(address: Address) -> str:
    return f"model {address.text[:_SHOWN]!r}"
