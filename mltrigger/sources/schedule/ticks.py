"""The ticks of a schedule: every so many seconds since 1970, or the times of a cron expression."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Protocol

from mltrigger.errors import InvalidName, NotFound, how_to_install

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_PERIOD = re.compile(r"(?:\d+[smhd])+")
_LONGEST_S = 366 * 86_400
_LOOK_BACK = timedelta(days=31)
"""Ticks of a cron expression that were missed are counted so far back."""


class Ticks(Protocol):
    """The times of a schedule."""

    def after(self, time: datetime) -> Iterator[datetime]:
        """Yield the ticks after *time*, oldest first, without end or until there are no more."""

    def newest(self, after: datetime, until: datetime) -> tuple[int, datetime | None]:
        """Return the number of ticks in between, *until* included, and the newest of them."""


class Every:
    """A tick every so many seconds, counted from 1970-01-01 in UTC.

    Parameters
    ----------
    text : str
        Such as ``15m``, ``1h30m``, ``10s``, ``7d``.
    """

    def __init__(self, text: str) -> None:
        parts = re.findall(r"(\d+)([smhd])", text) if _PERIOD.fullmatch(text) else []
        self.period_s = sum(int(n) * _UNITS_S[unit] for n, unit in parts)
        if not 1 <= self.period_s <= _LONGEST_S:
            raise InvalidName(
                f"source every://{text[:40]} must be a time from 1s to 366d, such as every://15m,"
                " every://1h30m, every://7d"
            )

    def after(self, time: datetime) -> Iterator[datetime]:
        """Yield the ticks after *time*."""
        number = int(time.timestamp() // self.period_s)
        while True:
            number += 1
            yield datetime.fromtimestamp(number * self.period_s, UTC)

    def newest(self, after: datetime, until: datetime) -> tuple[int, datetime | None]:
        """Return the number of ticks in between, *until* included, and the newest of them."""
        first, last = (int(time.timestamp() // self.period_s) for time in (after, until))
        if last <= first:
            return 0, None
        return last - first, datetime.fromtimestamp(last * self.period_s, UTC)


class Cron:
    """The times of a cron expression in one time zone.

    A time that a change to summer time leaves out comes right after it. A time that comes twice
    fires once. An expression with a star in minute or hour runs on through both, as Debian's cron
    does.

    Parameters
    ----------
    text : str
        Five fields, such as ``0 7 * * 1-5``.
    zone : str
        The name of a time zone, such as ``Europe/Berlin``.
    """

    def __init__(self, text: str, zone: str) -> None:
        try:
            from cronsim import CronSim, CronSimError
        except ImportError as error:
            raise InvalidName(f"cron:// needs cronsim: {how_to_install('cron')}") from error
        try:
            self._zone = zoneinfo.ZoneInfo(zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            known = zoneinfo.available_timezones()
            raise InvalidName(str(NotFound.of("time zone", zone, known))) from None
        self._text, self._cron = text, CronSim
        try:
            CronSim(text, datetime.now(self._zone))
        except CronSimError as error:
            raise InvalidName(
                f"source cron://{text[:60]}: {error}; write minute, hour, day, month, weekday, such"
                " as cron://0 7 * * 1-5?tz=Europe/Berlin"
            ) from None

    def after(self, time: datetime) -> Iterator[datetime]:
        """Yield the ticks after *time*."""
        begin = (time + timedelta(microseconds=1)).astimezone(self._zone)
        yield from self._cron(self._text, begin)

    def newest(self, after: datetime, until: datetime) -> tuple[int, datetime | None]:
        """Return the number of ticks in between, *until* included, and the newest of them."""
        count, found = 0, None
        for tick in self.after(max(after, until - _LOOK_BACK)):  # of longer ago only the newest
            if tick > until:
                break
            count, found = count + 1, tick
        return count, found
