"""Arguments of the command line. A mistyped word is an error that names the near ones."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

EXIT_STATUS = """\
exit status: 0 done, 1 refused with a message, or an error found by doctor or audit, 2 wrong usage,
3, 4 or 5 a verdict of compare: HOLD, WORSE or NOT YET, 130 interrupted"""


class Parser(argparse.ArgumentParser):
    """Takes no abbreviations. Its errors name the nearest command or option."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            **{
                "allow_abbrev": False,
                "formatter_class": argparse.RawDescriptionHelpFormatter,
                **settings,
            }
        )

    def error(self, message: str) -> NoReturn:
        """Print the usage, *message* and the nearest known words. Exit with status 2."""
        super().error(f"{message}{self._hint(message)}")

    def _hint(self, message: str) -> str:
        if unknown := re.search(r"unrecognized arguments: (?:.* )?(--[\w-]+)", message):
            near = _near(unknown[1], self._options())
        elif unknown := re.search(r"invalid choice: '([^']*)'", message):
            near = _near(unknown[1], self._choices())
        else:
            return ""
        return f"; did you mean {' or '.join(near)}?" if near else f"; see {self.prog} --help"

    def _commands(self) -> Iterator[argparse.ArgumentParser]:
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from action.choices.values()

    def _options(self) -> Iterator[str]:
        """Yield the options of this command and of its subcommands.

        argparse reports unknown options of subcommands to the top parser only.
        """
        yield from self._option_string_actions
        for command in self._commands():
            yield from command._options() if isinstance(command, Parser) else ()

    def _choices(self) -> Iterator[str]:
        for action in self._actions:
            yield from map(str, action.choices or ())


def seconds(text: str) -> float:
    """Return *text* as seconds, 0 or more."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds: 0 or more")
    return value


LOOPBACK = "127.0.0.1"


def address(text: str) -> tuple[str, int]:
    """Return the host and the port of *text*, ``PORT`` or ``HOST:PORT``.

    Without a host it is this machine only. Port 0 takes a free one.
    """
    host, colon, number = text.rpartition(":")
    if (colon and not host) or not (number.isascii() and number.isdigit() and int(number) < 65536):
        raise argparse.ArgumentTypeError(
            f"{text[:60]!r} must be PORT, or HOST:PORT such as 0.0.0.0:8080"
        )
    return host.strip("[]") or LOOPBACK, int(number)


def filled(text: str) -> str:
    """Return *text* unless it is empty.

    An empty value comes from an unset shell variable. It does not mean the default.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; leave the option out for the default")
    return text


def _near(word: str, known: Iterable[str]) -> list[str]:
    """Return the two of *known* nearest to *word*: abbreviated by it, else similar to it."""
    names = sorted(set(known) - {word})  # another command may have that option
    return [name for name in names if name.startswith(word)][:2] or difflib.get_close_matches(
        word, names, n=2
    )
