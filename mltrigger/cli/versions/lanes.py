"""The commands about lanes: ``shadow``, ``replay`` and ``lanes``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from mltrigger.cli.confirming import said_when_stopped
from mltrigger.cli.output import add_output, show
from mltrigger.cli.parsing import filled, seconds
from mltrigger.cli.subscribed import add_effects, add_why, calling, command, opened
from mltrigger.cli.versions.rows import show_lane
from mltrigger.errors import NotFound
from mltrigger.text import one_line, redacted, short

if TYPE_CHECKING:
    from mltrigger.rollout.lane import Lane

_VERSION = "1.1.0, a selector such as ocr:1.1, or the import path of a model"


def add_commands(commands: Any) -> None:
    """Add the commands."""
    shadow = command(commands, "shadow", "send a copy of live events to a version")
    shadow.add_argument("version", help=_VERSION)
    shadow.add_argument(
        "--share", type=float, default=1.0, help="the part of the events (default: 1)"
    )
    _add_settings(shadow)
    shadow.set_defaults(run=_shadow)
    replay = command(commands, "replay", "send recorded events to a version, without effects")
    replay.add_argument("version", help=_VERSION)
    for name, said in (("since", "from"), ("until", "until")):
        replay.add_argument(
            f"--{name}", type=filled, metavar="TIME", help=f"{said} then: 2d, or 2026-11-30T12:00Z"
        )
    replay.add_argument("--limit", type=int, help="only the newest so many events")
    replay.add_argument(
        "--wait-s", type=seconds, help="wait so long until it is done (default: return at once)"
    )
    _add_settings(replay)
    replay.set_defaults(run=_replay)
    lanes = command(commands, "lanes", "list the lanes of a subscription, stop or start one")
    chosen = lanes.add_mutually_exclusive_group()
    chosen.add_argument("--stop", type=filled, metavar="LANE", help="begin no more calls in it")
    chosen.add_argument("--start", type=filled, metavar="LANE", help="go on with it")
    add_output(lanes)
    lanes.set_defaults(run=_lanes)


def _add_settings(added: Any) -> None:
    add_effects(added)
    added.add_argument("--concurrency", type=int, default=1, help="calls at a time (default: 1)")
    added.add_argument("--max-rate-per-s", type=float, metavar="RATE", help="events a second")
    add_why(added)
    add_output(added)


def _settings(given: argparse.Namespace) -> dict[str, Any]:
    names = ("effects", "concurrency", "max_rate_per_s", "why")
    return {name: getattr(given, name) for name in names}


def _shadow(given: argparse.Namespace) -> int:
    with calling(given) as sub:
        _tell(sub.shadow(given.version, given.share, **_settings(given)), given.form)
    return 0


def _replay(given: argparse.Namespace) -> int:
    times = {name: getattr(given, name) for name in ("since", "until", "limit")}
    with calling(given) as sub:
        lane = sub.replay(given.version, **times, **_settings(given))
        if given.wait_s is not None:
            with said_when_stopped(lambda: f"{_line(lane)}; lanes {sub.name} --stop ends it"):
                lane.wait(given.wait_s)
        _tell(lane, given.form)
        waits_in_vain = given.wait_s is not None and lane.state != "done"
    return int(waits_in_vain)


def _lanes(given: argparse.Namespace) -> int:
    with opened(given) as sub:
        found = sub.lanes()
        if (name := given.stop or given.start) is not None:
            lane = _named(found, name)
            lane.stop() if given.stop else lane.start()
            _tell(lane, given.form)
            return 0
        if given.form != "table":
            show(found.frame(), given.form)
            return 0
        for lane in found:
            print(_line(lane))
    return 0


def _named(lanes: Any, name: str) -> Lane:
    found: dict[str, Lane] = {lane.name: lane for lane in lanes if lane.role != "canary"}
    if name not in found:
        raise NotFound.of("lane", name, found)
    return found[name]


def _tell(lane: Lane, form: str) -> None:
    if form != "table":
        show_lane(lane, form)
    else:
        print(_line(lane))


def _line(lane: Any) -> str:
    facts = lane.facts()
    of = "" if facts["total"] is None else f" of {facts['total']:,}"
    done = f"{facts['done']:,}{of} done"
    parts = [facts["state"], done]
    parts += [f"{facts['failed']:,} failed"] if facts["failed"] else []
    parts += [f"{facts['remaining']:,} left"] if facts["remaining"] else []
    parts += [f"share {facts['share']:.3g}"] if facts["share"] < 1 else []
    by = f" (by {facts['by']})" if facts["by"] else ""
    why = f": {short(facts['why'], 200)}" if facts["why"] else ""
    said = f"{facts['lane']}  {facts['role']} {facts['version']}, {', '.join(parts)}{by}{why}"
    return one_line(redacted(said))
