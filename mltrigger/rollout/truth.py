"""The verbs of a subscription for effects and accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mltrigger.errors import brief_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from mltrigger.broker import SubscriptionSpec
    from mltrigger.rollout.agree import Agree
    from mltrigger.store.log import Log
    from mltrigger.store.registry import Registry


class Bus(Protocol):
    """The part of a bus that these verbs need."""

    log: Log
    registry: Registry


@brief_errors
class Truth:
    """Effects and accuracy. :class:`~mltrigger.Subscription` adds the other verbs."""

    _bus: Bus
    _spec: SubscriptionSpec

    def effects(self) -> pd.DataFrame:
        """Return the effects of the model on other systems, made with ``mt.once``, oldest first.

        ``state`` is ``answered`` (it has happened), ``failed`` (it has not) or ``unknown``: it
        began, and its end was not recorded. ``calls`` counts the calls, ``attempt`` is the one that
        called last. ``answer`` is JSON. ``error`` says why a call failed, or why the answer is not
        kept.
        """
        from mltrigger.reports import effects

        return effects.frame(self._bus.log.effects, self._spec.id)

    def accuracy(
        self,
        by: str | Sequence[str] = "version",
        agree: Agree | float | None = None,
        *,
        confidence: float = 0.95,
    ) -> pd.DataFrame:
        """Return how often the answers were right, by version. ``bus.label`` tells the truths.

        Answers of shadows and replays are left out.

        Parameters
        ----------
        by : str or sequence of str
            The groups: ``version``, ``role``, ``type``, ``subject``, or several of them.
        agree : function, number or None
            Whether output and truth agree: a rule of ``mt.agree``, a function of both, a tolerance.
            Default: they are equal. Of a rule that gives shares only 1.0 is right.
        confidence : float
            That of the interval (Clopper-Pearson).

        Returns
        -------
        pandas.DataFrame
            The columns of *by*, then ``answered``, ``labelled``, ``right``, ``accuracy`` (of the
            labelled ones) and its interval from ``low`` to ``high``.
        """
        from mltrigger.rollout.accuracy import accuracy

        bus = self._bus
        return accuracy(bus.log, bus.log.labels, self._spec.id, by, agree, confidence)
