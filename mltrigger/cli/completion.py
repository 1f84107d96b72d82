"""The command ``completion``: a script that completes commands, options and names in a shell."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

from mltrigger.errors import MltriggerError, how_to_install

_SHELLS = ("bash", "zsh")
_FILES = ("html", "json", "verdict", "file", "output")
_NAMES = {"name": "subscriptions", "subscription": "subscriptions", "topic": "topics"}
# A line may name the bus: the names are those of that one. A store of somebody else may hold any
# text as a name, and `compgen -W` would run the commands in it: only plain names are offered.
_PREAMBLE = {
    "bash": """
_mltrigger_names() {
  local what="$1" url="" name plain='^[A-Za-z0-9_.:@~-]+$'
  local given='--url[ =]+([^ ]+)' quotes="[\\"']"
  if [[ "$COMP_LINE" =~ $given ]]; then url="${BASH_REMATCH[1]//$quotes/}"; fi
  while IFS= read -r name; do
    if [[ "$name" =~ $plain && "$name" == "$2"* ]]; then printf "%s\\n" "$name"; fi
  done < <(mltrigger ls "$what" --names ${url:+--url "$url"} 2>/dev/null)
}
_mltrigger_subscriptions() { _mltrigger_names subscriptions "$1"; }
_mltrigger_topics() { _mltrigger_names topics "$1"; }
""",
    "zsh": """
_mltrigger_names() {
  local -a url
  local -i at=${words[(I)--url]}
  if (( at )); then url=(--url "${(Q)words[at + 1]}"); else at=${words[(I)--url=*]}
    if (( at )); then url=(--url "${(Q)${words[at]#--url=}}"); fi
  fi
  compadd -- ${(f)"$(mltrigger ls $1 --names $url 2>/dev/null)"}
}
_mltrigger_subscriptions() { _mltrigger_names subscriptions }
_mltrigger_topics() { _mltrigger_names topics }
""",
}


def add_commands(commands: Any, parser: Callable[[], argparse.ArgumentParser]) -> None:
    """Add ``completion`` for the command line that *parser* returns."""
    added = commands.add_parser(
        "completion",
        help="print a script that completes commands and names in bash or zsh",
        description='For bash: eval "$(mltrigger completion bash)" in ~/.bashrc.',
    )
    added.add_argument("shell", choices=_SHELLS)
    added.set_defaults(run=lambda given: _print(given.shell, parser()))


def _print(shell: str, parser: argparse.ArgumentParser) -> int:
    if importlib.util.find_spec("shtab") is None:
        raise MltriggerError(f"completion needs shtab: {how_to_install('completion')}")
    import shtab

    for action in _actions(parser):
        if action.dest in _NAMES:
            what = f"_mltrigger_{_NAMES[action.dest]}"
            action.complete = {"bash": what, "zsh": what}  # type: ignore[attr-defined]
        elif action.dest in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, shell, preamble=_PREAMBLE[shell]))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield action
