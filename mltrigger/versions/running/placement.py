"""The place where a model runs: a thread, an event loop, processes, an executor, or its address."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import NamedTuple

from mltrigger.errors import Closed, InvalidModel, InvalidPolicy, MltriggerError, NotFound
from mltrigger.policy import DeliveryPolicy
from mltrigger.text import redacted
from mltrigger.versions.address import Address
from mltrigger.versions.describe import Model
from mltrigger.versions.running.here import called
from mltrigger.versions.running.invoke import Caller
from mltrigger.versions.running.workers.portable import check_portable, check_sendable
from mltrigger.versions.scheme import Setting
from mltrigger.versions.version import ModelVersion

Executing = Executor | Callable[[], Executor]
_PATIENCE_S = 0.2
_CONCURRENCY = 8
"""Calls at the same time that an endpoint is prepared for, unless the subscription says more."""


class _Placed(NamedTuple):
    version: ModelVersion
    model: Model
    caller: Caller

    def is_of(self, version: ModelVersion, model: Model) -> bool:
        return self.model is model and self.version.id == version.id


class Placement:
    """Resolves a selector and places the model where the policy says.

    An old version keeps its resources until :meth:`tidy` finds it unused.

    Parameters
    ----------
    resolve : callable
        Returns the model version that the selector means now, and its model.
    policy : DeliveryPolicy
        Its ``timeout_s``, ``isolation``, ``memory_limit_mb`` and ``max_concurrency`` count.
    executor : concurrent.futures.Executor, or a callable that makes one, optional
        Runs the model instead.
    """

    def __init__(
        self,
        resolve: Callable[[], tuple[ModelVersion, Model]],
        policy: DeliveryPolicy,
        executor: Executing | None = None,
    ) -> None:
        self._resolve, self._policy, self._executor = resolve, policy, executor
        self._now: _Placed | None = None
        self._before: list[Caller] = []
        self._guard = threading.Lock()
        self._closed = False

    def __call__(self) -> tuple[ModelVersion, Caller]:
        """Return the current model version and its caller. The first call loads the model.

        Raises
        ------
        NotFound
            If it cannot be called in this process.
        InvalidModel
            If it could not be loaded, or its endpoint not be opened. Another try may succeed.
        Closed
            After :meth:`close`.
        """
        version, model = self._resolve()
        now = self._now
        if now is not None and now.is_of(version, model):
            return version, now.caller
        with self._guard:
            if self._closed:
                raise Closed("nobody listens any more")
            now = self._now
            if now is None or not now.is_of(version, model):
                caller = self._made(version, model)
                if self._closed:  # close() did not wait while the model was loaded
                    caller.close()
                    raise Closed(f"model {version} was loaded too late: nobody listens any more")
                if now is not None:
                    self._before.append(now.caller)
                now = self._now = _Placed(version, model, caller)
            return version, now.caller

    @property
    def is_loaded(self) -> bool:
        """Whether the current model version is loaded. A call of this object is fast then."""
        now = self._now
        return now is not None and now.is_of(*self._resolve())

    def tidy(self, in_use: Collection[Caller]) -> None:
        """Close the callers of old versions that are not *in_use*.

        A lot of deliveries keeps the version that it began with.
        """
        if self._before:
            with self._guard:
                for old in [old for old in self._before if not any(old is used for used in in_use)]:
                    self._before.remove(old)
                    old.close()

    def close(self) -> None:
        """Close all callers. Do not wait for a model that is being loaded. Idempotent."""
        self._closed = True
        if self._guard.acquire(timeout=_PATIENCE_S):
            try:
                for caller in [*self._before, *([self._now.caller] if self._now else [])]:
                    caller.close()
                self._before, self._now = [], None
            finally:
                self._guard.release()

    def _made(self, version: ModelVersion, model: Model) -> Caller:
        try:
            return self._placed(version, model)
        except MltriggerError:
            raise
        except BaseException as error:
            # A model may do anything while it is loaded, sys.exit() included.
            text = redacted(f"{type(error).__name__}: {error}")[:500]
            raise InvalidModel(f"model {version} could not be loaded: {text}") from error

    def _placed(self, version: ModelVersion, model: Model) -> Caller:
        policy = self._policy
        if (
            isinstance(model.target, Address)
            and version.id
            and model.describe().digest != version.digest
        ):
            raise NotFound(
                f"model {version}: what its address names has changed since; register it under a"
                " new version"
            )
        if self._executor is not None:
            # Loaded when it is needed: most models run in a thread.
            from mltrigger.versions.running.workers.invoker import WorkerInvoker
            from mltrigger.versions.running.workers.sending import in_executor

            return WorkerInvoker(
                model, in_executor(model, version.import_path, self._executor, policy.timeout_s)
            )
        if policy.isolation == "process":
            from mltrigger.versions.running.workers.invoker import WorkerInvoker
            from mltrigger.versions.running.workers.processes import Processes

            return WorkerInvoker(
                model,
                Processes(
                    model,
                    version.import_path,
                    policy.timeout_s,
                    memory_limit_mb=policy.memory_limit_mb,
                    processes=policy.max_concurrency or 1,
                ),
            )
        return called(model, Setting(policy.timeout_s, policy.max_concurrency or _CONCURRENCY))


def check_placement(
    model: Model | None, policy: DeliveryPolicy, executor: Executing | None
) -> None:
    """Check that the model, if it is known yet, can run where the policy and the executor say.

    This happens when it is subscribed, not at the first event.

    Raises
    ------
    InvalidModel, InvalidPolicy
        If it cannot.
    """
    if executor is None:
        if policy.isolation == "process" and model is not None:
            check_portable(model, model.import_path)
        return
    if policy.isolation == "process":
        raise InvalidPolicy(
            "executor= and isolation='process' both say where the model runs: leave one of them out"
        )
    from mltrigger.versions.running.workers.pools import Source

    Source(executor)
    if model is not None and not isinstance(executor, ThreadPoolExecutor):
        check_sendable(model, model.import_path)
