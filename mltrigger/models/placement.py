"""Where a model runs: in a thread of this process, on an event loop, in processes of its own, in an executor, or at its address."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor

from mltrigger.errors import InvalidModel, MltriggerError
from mltrigger.models.address import Address
from mltrigger.models.describe import Model
from mltrigger.models.invoke import Caller, Invoker
from mltrigger.models.schemes import Setting
from mltrigger.models.version import ModelVersion
from mltrigger.policy import DeliveryPolicy
from mltrigger.redact import redacted

Executing = Executor | Callable[[], Executor]
_CONCURRENCY = 8
"""Calls at the same time that an endpoint is prepared for when the subscription does not say."""


class Placement:
    """Resolves as *resolve* does, and has the model called where the policy says.

    A version that is no longer meant keeps what it holds until its calls have ended.

    Parameters
    ----------
    resolve : callable
        Returns the model version that is meant now, and the model.
    policy : DeliveryPolicy
        Whose ``timeout_s``, ``isolation``, ``max_concurrency`` count.
    executor : concurrent.futures.Executor, or a callable that makes one, optional
        Where the model runs instead.
    """

    def __init__(
        self, resolve: Callable[[], tuple[ModelVersion, Model]], policy: DeliveryPolicy, executor: Executing | None = None
    ) -> None:
        self._resolve, self._policy, self._executor = resolve, policy, executor
        self._now: tuple[ModelVersion, Model, Caller] | None = None
        self._before: list[Caller] = []
        self._guard = threading.Lock()

    def __call__(self) -> tuple[ModelVersion, Caller]:
        """Return the version that is meant now, and how to call it.

        Raises
        ------
        NotFound
            When it cannot be called in this process.
        InvalidModel
            When it could not be loaded, or its endpoint not be opened; worth another try.
        """
        version, model = self._resolve()
        now = self._now
        if now is not None and now[1] is model and now[0].id == version.id and not self._before:
            return version, now[2]
        with self._guard:
            for old in [old for old in self._before if not old.busy]:
                old.close()
                self._before.remove(old)
            if self._now is None or self._now[1] is not model or self._now[0].id != version.id:
                caller = self._made(version, model)
                if self._now is not None:
                    self._before.append(self._now[2])
                self._now = (version, model, caller)
            return version, self._now[2]

    def close(self) -> None:
        """Let go of everything; idempotent."""
        with self._guard:
            for caller in [*self._before, *([self._now[2]] if self._now else [])]:
                caller.close()
            self._before, self._now = [], None

    def _made(self, version: ModelVersion, model: Model) -> Caller:
        try:
            return self._placed(version, model)
        except MltriggerError:
            raise
        except Exception as error:
            text = redacted(f"{type(error).__name__}: {error}")[:500]
            raise InvalidModel(f"model {version} could not be loaded: {text}") from error

    def _placed(self, version: ModelVersion, model: Model) -> Caller:
        policy = self._policy
        if self._executor is not None:
            from mltrigger.models.executor import ExecutorInvoker

            return ExecutorInvoker(model, version.import_path, self._executor, policy.timeout_s)
        if policy.isolation == "process":
            from mltrigger.models.process import ProcessInvoker

            limit = policy.memory_limit_mb
            return ProcessInvoker(model, import_path=version.import_path, timeout_s=policy.timeout_s, memory_limit_mb=limit)
        return called(model, Setting(policy.timeout_s, policy.max_concurrency or _CONCURRENCY))


def called(model: Model, setting: Setting) -> Caller:
    """Return how *model* is called in this process."""
    if isinstance(model.target, Address):
        from mltrigger.models.remote import RemoteInvoker

        return RemoteInvoker(model, setting)
    if model.kind == "async":
        from mltrigger.models.asynchronous import AsyncInvoker

        return AsyncInvoker(model, setting.timeout_s)
    return Invoker(model)
