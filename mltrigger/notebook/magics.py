"""``%load_ext mltrigger``: the magics ``%%on`` and ``%events``, and completion of names."""

from __future__ import annotations

import ast
import json
import shlex
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class, no_var_expand

import mltrigger
from mltrigger.bus import EventBus
from mltrigger.errors import NotFound
from mltrigger.notebook.completion import EVENTS, Completing, options_of_subscribe

if TYPE_CHECKING:
    import pandas as pd
    from IPython.core.interactiveshell import InteractiveShell

    from mltrigger.handle import Subscription

_NEWEST, _MOST = 10, 2**63
_ID = "mltrigger"
_TEXTS = ("name", "version", "emit", "start", "filter_scope", "key", "priority", "since", "bus")
"""Options whose value is a text, even one that looks like a number."""


@magics_class
class BusMagics(Magics):
    """The magics of mltrigger. ``--bus NAME`` names a variable. Default: the default bus."""

    shell: InteractiveShell

    @no_var_expand
    @cell_magic
    def on(self, line: str, cell: str) -> Subscription:
        """Subscribe the function of this cell to a topic, or another source.

        ::

            %%on documents --version 1.0.0 --emit texts
            def read_page(page):
                return {"text": ...}

        The options are those of ``mt.subscribe``: ``--name``, ``--version``,
        ``--filter '{"type": ["page"]}'``, ``--max-attempts 3``, ``--no-listen``. Running the cell
        again binds the subscription anew. The name of the function then means the subscription,
        which can be called like the function.

        Examples
        --------
        >>> shell.run_cell_magic("on", "pages --version 1.0.0", "def read(page): return page")
        Subscription('pages' -> read:1.0.0, listening, no events yet)
        """
        places, options = parsed("%%on", line, options_of_subscribe())
        if len(places) != 1:
            raise UsageError(f"%%on needs one topic or source, got {len(places)}: {line.strip()!r}")
        bus = self._bus(options.pop("bus", None))
        name = self._defined(cell)
        found = self.shell.user_ns[name]
        if hasattr(found, "__mltrigger_bus__"):
            raise UsageError(f"{name} subscribes by itself: leave out @mt.subscribe, or %%on")
        subscription: Subscription = bus.subscribe(places[0], found, **options)
        self.shell.user_ns[name] = subscription
        return subscription

    @no_var_expand
    @line_magic
    def events(self, line: str) -> pd.DataFrame:
        """Return the newest events of a topic, or of all, as a frame: ``%events documents -n 5``.

        ``--since 1h`` keeps those of the last hour.

        Examples
        --------
        >>> len(shell.run_line_magic("events", "documents -n 1"))
        1
        """
        places, options = parsed("%events", line, EVENTS)
        if len(places) > 1:
            raise UsageError(f"%events needs one topic, or none, got {len(places)}")
        limit = options.get("n", _NEWEST)
        if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit < _MOST:
            raise UsageError(f"-n must be a number of events from 1 on, got {limit!r}")
        bus = self._bus(options.get("bus"))
        return bus.events(*places, limit=limit, since=options.get("since"))

    def _bus(self, name: str | None) -> EventBus:
        if name is None:
            return mltrigger.default_bus()
        found = self.shell.user_ns.get(name)
        if isinstance(found, EventBus):
            return found
        buses = [n for n, value in self.shell.user_ns.items() if isinstance(value, EventBus)]
        raise UsageError(str(NotFound.of("bus in a variable", name, buses)))

    def _defined(self, cell: str) -> str:
        """Run the cell, and return the name of its one function."""
        shell: Any = self.shell
        text = shell.transform_cell(cell)
        # the name under which tracebacks and inspect.getsource find the cell
        file = shell.compile.cache(text, shell.execution_count, raw_code=cell)
        tree = shell.transform_ast(shell.compile.ast_parse(text, filename=file))
        functions = [
            node.name
            for node in tree.body
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        ]
        if len(functions) != 1:
            said = f"{len(functions)}: {', '.join(functions)}" if functions else "none"
            raise UsageError(f"%%on needs exactly one function in its cell, found {said}")
        shell.ex(shell.compile(tree, file, "exec"))  # as IPython runs the code of a cell
        return functions[0]


def parsed(magic: str, line: str, known: tuple[str, ...]) -> tuple[list[str], dict[str, Any]]:
    """Return the words of *line* without a name, and its options with their values."""
    try:
        words = shlex.split(line, comments=False)
    except ValueError as error:
        raise UsageError(f"{magic}: {error}: {line.strip()!r}") from None
    places: list[str] = []
    options: dict[str, Any] = {}
    while words:
        word = words.pop(0)
        if not word.startswith("-") or word == "-":
            places.append(word)
            continue
        name, given, value = word.lstrip("-").partition("=")
        name = name.replace("-", "_")
        if name not in known and name.removeprefix("no_") in known and not given:
            options[name.removeprefix("no_")] = False
            continue
        if name not in known:
            raise UsageError(str(NotFound.of(f"option of {magic}", name, known)))
        if not given:
            if name == "rebind" or (name == "listen" and not _is_number(words[:1])):
                options[name] = True
                continue
            if not words or _is_option(words[0], known):
                raise UsageError(f"{magic}: --{name.replace('_', '-')} needs a value")
            value = words.pop(0)
        options[name] = value if name in _TEXTS else _value(value)
    return places, options


def _is_number(words: list[str]) -> bool:
    return bool(words) and isinstance(_value(words[0]), (int, float))


def _is_option(word: str, known: tuple[str, ...]) -> bool:
    name = word.removeprefix("--").partition("=")[0].replace("-", "_").removeprefix("no_")
    return word.startswith("--") and name in known


def _value(text: str) -> Any:
    """Return a number, ``true`` or a JSON value as such, anything else as text."""
    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(text, text)


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics, and completion. Idempotent."""
    unload_ipython_extension(shell)
    shell.register_magics(BusMagics)
    shell.Completer.custom_matchers.append(Completing(shell).matcher())


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take completion and the magics away again."""
    matchers = shell.Completer.custom_matchers
    matchers[:] = [m for m in matchers if getattr(m, "matcher_identifier", None) != _ID]
    for kind, name in (("cell", "on"), ("line", "events")):
        shell.magics_manager.magics[kind].pop(name, None)
