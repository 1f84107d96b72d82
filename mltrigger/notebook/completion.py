"""Completion of the names of a bus, in strings of calls and in lines of magics.

It never opens a bus, never raises, and reads no store itself.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import mltrigger
from mltrigger import policy
from mltrigger.bus import EventBus
from mltrigger.handle import Subscription
from mltrigger.notebook.known import Known, Names
from mltrigger.reports import frames
from mltrigger.store.outcomes import ROLES

if TYPE_CHECKING:
    from collections.abc import Callable

    from IPython.core.completer import CompletionContext, SimpleMatcherResult
    from IPython.core.interactiveshell import InteractiveShell

_LONGEST = 4_000
"""Characters before the cursor that are looked at."""
_VERSIONED = ("promote", "canary", "rollback", "shadow", "replay")
_BY_PLACE: dict[str, tuple[str, ...]] = {
    "subscribe": ("topics", "selectors"),
    "alias": ("models", "", "versions"),
    "explain": ("", "subscriptions"),
    "compare": ("versions", "versions"),
    "plot_compare": ("versions", "versions"),
    **dict.fromkeys(("publish", "publish_batch", "fire", "topic", "events", "plan"), ("topics",)),
    **dict.fromkeys(("subscription", "unsubscribe", "invocations", "doctor"), ("subscriptions",)),
    **dict.fromkeys(("skipped", "depth_by_key"), ("subscriptions",)),
    **dict.fromkeys(
        ("plot_latency", "plot_timeline", "plot_throughput", "plot_outcomes"), ("subscriptions",)
    ),
    **dict.fromkeys(_VERSIONED, ("versions",)),
    **dict.fromkeys(("dry_run", "latency", "register", "model"), ()),
}
"""The names that each call takes, by the place of the argument."""
_OF_A_SUBSCRIPTION: dict[str, tuple[str, ...]] = {
    name: () for name, kinds in _BY_PLACE.items() if kinds and kinds[0] != "versions"
}
"""A subscription knows its topic and its name."""
_BY_NAME: dict[str, str | tuple[str, ...]] = {
    "topic": "topics",
    "emit": "topics",
    "version": "versions",
    "subscription": "subscriptions",
    "columns": tuple(frames.INVOCATIONS),
    "role": (*ROLES, "all"),
    "stage": frames.STAGES,
    "isolation": get_args(policy.Isolation),
    "ack": get_args(policy.Ack),
    "input": get_args(policy.Input),
    "corrections": get_args(policy.Corrections),
    "start": ("latest", "earliest"),
    "filter_scope": ("attributes", "body"),
    "batch": ("adaptive",),
    "backlog": ("new", "old"),
    "then": ("wait", "promote"),
    "effects": ("recorded", "live"),
}
"""The names, or the values, that a keyword takes."""
_FRAMES: Mapping[str, Mapping[str, Any]] = {
    "invocations": frames.INVOCATIONS,
    "events": frames.EVENTS,
    "models": frames.MODELS,
    "topics": frames.TOPICS,
    "subscriptions": frames.SUBSCRIPTIONS,
    "latency": frames.LATENCY,
    "dead_letters": frames.DEAD_LETTERS,
    "skipped": frames.SKIPPED,
    "audit": frames.AUDIT,
    "trace": frames.TRACE,
    "results": frames.ENDED,
    "doctor": frames.DOCTOR,
    "explain": frames.EXPLAIN,
}
"""The columns of frames: ``sub.results()["out"``."""
EVENTS = ("n", "since", "bus")
"""The options of ``%events``."""
_MAGIC = re.compile(r"%{1,2}(on|events)[ \t]+(.*)", re.DOTALL)
_CALLEE = re.compile(r"((?:\w+\.)*|.*\.)(\w+)$", re.DOTALL)
_OF_A_FRAME = re.compile(r"(\w+)\([^()]*\)$")


class Place(NamedTuple):
    """A string that is being written: in which call, at which place, and its text so far."""

    callee: str
    place: int
    keyword: str | None
    text: str
    is_subscript: bool = False


class _Open(NamedTuple):
    """A bracket that is open: the text before it, and the argument under way."""

    bracket: str
    before: str
    place: int = 0
    keyword: str | None = None


def place_of(text: str) -> Place | None:
    """Return the string under way at the end of *text*, ``None`` outside of strings."""
    stack: list[_Open] = []
    at, quote, began = 0, "", 0
    while at < len(text):
        sign = text[at]
        if quote:
            if sign == "\\":
                at += 1
            elif text.startswith(quote, at):
                at += len(quote) - 1
                quote = ""
        elif sign in "'\"":
            quote = sign * 3 if text.startswith(sign * 3, at) else sign
            at += len(quote) - 1
            began = at + 1
        elif sign == "#":
            end = text.find("\n", at)
            at = len(text) if end < 0 else end
        elif sign in "([{":
            stack.append(_Open(sign, text[:at]))
        elif sign in ")]}" and stack:
            stack.pop()
        elif sign == "," and stack:
            stack[-1] = stack[-1]._replace(place=stack[-1].place + 1, keyword=None)
        elif sign == "=" and stack and text[at + 1 : at + 2] != "=":
            found = re.search(r"(\w+)\s*$", text[stack[-1].before.__len__() + 1 : at])
            stack[-1] = stack[-1]._replace(keyword=found[1] if found else None)
        at += 1
    return _inside(stack, text[began:]) if quote and stack else None


def _inside(stack: list[_Open], text: str) -> Place | None:
    inner = stack[-1]
    if inner.bracket == "[" and (found := _OF_A_FRAME.search(inner.before)):
        return Place(found[1], 0, None, text, is_subscript=True)
    if inner.bracket != "(" or not re.search(r"[\w]$", inner.before):  # a list of an argument
        if len(stack) < 2:
            return None
        inner = stack[-2]
    found = _CALLEE.search(inner.before)
    return None if found is None else Place(found[0], inner.place, inner.keyword, text)


class Completing:
    """Finds the names that fit at the cursor. The names are those of buses that are open."""

    def __init__(self, shell: InteractiveShell, names: Names | None = None) -> None:
        self._shell, self._names = shell, names or Names()

    def matcher(self) -> Callable[[CompletionContext], SimpleMatcherResult]:
        """Return a matcher of IPython's version 2."""
        from IPython.core.completer import SimpleCompletion, context_matcher

        @context_matcher(identifier="mltrigger", priority=1000)  # type: ignore[untyped-decorator]
        def found(context: CompletionContext) -> SimpleMatcherResult:
            lines = context.full_text.split("\n")
            before = [*lines[: context.cursor_line], context.text_until_cursor]
            fragment, fits = self.at("\n".join(before))
            made = [SimpleCompletion(text=text, type="mltrigger") for text in fits]
            return {
                "completions": made,
                "matched_fragment": fragment,
                "suppress": bool(made),
                "ordered": True,
            }

        matcher: Callable[[CompletionContext], SimpleMatcherResult] = found
        return matcher

    def at(self, text: str) -> tuple[str, list[str]]:
        """Return the text under way at the end of *text*, and the names that begin with it."""
        try:
            fragment, names = self._at(text[-_LONGEST:])
        except Exception:  # a completer that raises disturbs the one who types
            return "", []
        return fragment, list(dict.fromkeys(n for n in names if n.startswith(fragment)))

    def _at(self, text: str) -> tuple[str, Iterable[str]]:
        if "\n" not in text and (magic := _MAGIC.match(text)):
            return self._of_magic(magic[1], magic[2])
        found = place_of(text)
        if found is None:
            return "", []
        if found.is_subscript:
            return found.text, _FRAMES.get(found.callee, ())
        receiver, _, call = found.callee.rpartition(".")
        owner = self._owner(receiver, call)
        if owner is None or call not in _BY_PLACE:
            return found.text, []
        kinds = _BY_PLACE[call]
        if isinstance(owner, Subscription):
            kinds = _OF_A_SUBSCRIPTION.get(call, kinds)
        if found.keyword is not None:
            kind = _BY_NAME.get(found.keyword, ())
        else:
            kind = kinds[found.place] if found.place < len(kinds) else ()
        return found.text, self._named(kind, owner)

    def _owner(self, receiver: str, call: str) -> EventBus | Subscription | None:
        """Return the bus or the subscription that is called, as far as it is open."""
        if re.fullmatch(r"\w+", receiver):
            found = self._shell.user_ns.get(receiver)
            if isinstance(found, (EventBus, Subscription)):
                return found
            return self._default() if found is mltrigger else None
        if not receiver:
            known = self._shell.user_ns.get(call)
            ours = known is not None and vars(mltrigger).get(call) is known
            return self._default() if ours else None
        return self._default() if call in _VERSIONED or ".subscription(" in receiver else None

    def _default(self) -> EventBus | None:
        """Return the default bus, if it is open."""
        return mltrigger._default

    def _named(
        self, kind: str | tuple[str, ...], owner: EventBus | Subscription | None
    ) -> Iterable[str]:
        if not isinstance(kind, str):
            return kind
        if not kind or owner is None:
            return ()
        bus: Any = owner.__mltrigger_bus__() if isinstance(owner, Subscription) else owner
        known = self._names.of(bus)
        if kind == "versions":
            mine = owner._spec.selector.partition(":")[0] if isinstance(owner, Subscription) else ""
            return _versions(known, mine.partition("@")[0])
        names: Iterable[str] = getattr(known, kind)
        return names

    def _of_magic(self, magic: str, line: str) -> tuple[str, Iterable[str]]:
        """Return the last word of the line of a magic, and the words that fit."""
        words = line.split(" ")
        fragment, before = words[-1], words[-2] if len(words) > 1 else ""
        options = options_of_subscribe() if magic == "on" else EVENTS
        if fragment.startswith("-"):
            return fragment, [f"--{name.replace('_', '-')}" for name in options]
        name = before.lstrip("-").replace("-", "_") if before.startswith("-") else ""
        if name == "bus":
            held = self._shell.user_ns.items()
            return fragment, [n for n, value in held if isinstance(value, EventBus)]
        if name and name != "rebind" and not name.startswith("no_"):
            return fragment, self._named(_BY_NAME.get(name, ()), self._default())
        return fragment, self._named("topics", self._default())


def _versions(known: Known, model: str) -> list[str]:
    mine = [version for name, version in known.versions if name == model]
    return mine or [version for _, version in known.versions]


def options_of_subscribe() -> tuple[str, ...]:
    """Return the options of ``%%on``: the keywords of ``subscribe``, and ``bus``."""
    known = inspect.signature(EventBus.subscribe).parameters.values()
    return (*(p.name for p in known if p.kind is p.KEYWORD_ONLY), "bus")
