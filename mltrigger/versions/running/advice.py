"""Advice on errors that do not tell their cause.

The cause is that a model does not run in the thread of its cell.
"""

from __future__ import annotations

import re
import threading

_MADE = (
    "It was made in another thread than the one that calls the model: make it in the model, or once"
    " in its class"
)
_LOOP = (
    "It belongs to the event loop of the kernel; the model runs on another one: make it in the"
    " model, at its first call"
)
_MAIN = (
    'A model is called in a thread of its own: subscribe it with isolation="process", where it has'
    " the main thread"
)
_NO_LOOP = (
    "A model is called in a thread without an event loop: write it as async def, or call"
    " asyncio.run(…) in it"
)
_RUNNING = "An async def model runs on an event loop already: await instead"
_ADVICE = [
    (re.compile(words), advice)
    for words, advice in [
        (r"SQLite objects created in a thread can only be used in that same thread", _MADE),
        (r"[Cc]annot switch to a different thread", _MADE),
        (r"(bound|attached) to a different (event )?loop", _LOOP),
        (r"Non-thread-safe operation invoked on an event loop", _LOOP),
        (r"only works? in (the )?main thread", _MAIN),
        (r"main thread is not in main loop", _MAIN),
        (r"There is no current event loop in thread|no running event loop", _NO_LOOP),
        (
            r"cannot be called from a running event loop|This event loop is already running",
            _RUNNING,
        ),
    ]
]


def advice_on(text: str) -> str | None:
    """Return advice on an error of a model in this thread, ``None`` if there is none."""
    advice = next((advice for words, advice in _ADVICE if words.search(text)), None)
    if advice is _MAIN and threading.current_thread() is threading.main_thread():
        return None  # then the model started that thread itself
    return advice


def with_advice(text: str) -> str:
    """Return *text*, followed by the advice if there is any."""
    advice = advice_on(text)
    return f"{text.rstrip().rstrip('.')}. {advice}" if advice else text
