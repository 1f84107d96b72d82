"""Models of an MLflow registry: ``models:/churn/3``, ``models:/churn@champion``.

They need the extra ``mlflow`` (``mlflow-skinny``).
"""

from __future__ import annotations

import importlib.util
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from mltrigger.errors import InvalidModel, ModelFailure, how_to_install
from mltrigger.event.event import Event
from mltrigger.text import short
from mltrigger.versions.address import Address
from mltrigger.versions.columns import known, of_user
from mltrigger.versions.running.predictors.feeding import of_head
from mltrigger.versions.running.predictors.feeds import Feed, Groups, alike
from mltrigger.versions.running.predictors.tables import Frames
from mltrigger.versions.scheme import Description, Endpoint, Scheme, Setting
from mltrigger.versions.schemes.failures import attempt, unfit
from mltrigger.versions.schemes.mlflow.registry import files_of, named, set_alias, version_now
from mltrigger.versions.schemes.mlflow.signature import Signature, outputs
from mltrigger.versions.schemes.options import model_name

_INVALID = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST"})


class MlflowRegistry(Scheme):
    """``models:/NAME/3``, ``models:/NAME@alias`` or ``models:/NAME/latest``: a registered model.

    It is loaded into this process.

    **Loading a model runs code of its author**, with the rights of this process, for every flavor.
    A user who registers such a model trusts all who may write to that registry. No event can name a
    model.

    Version 3 is ``3.0.0``. An alias may mean another version tomorrow. So may ``latest``, the
    highest version that is ready. Both are looked up when events come, and the version that ran is
    recorded. Stages are refused: MLflow has given them up.

    **Name the registry with** ``registry_uri`` **or** ``tracking_uri`` **where there is more than
    one.** Otherwise each process asks the registry of its own ``MLFLOW_TRACKING_URI`` and
    ``MLFLOW_REGISTRY_URI``. These variables belong neither to the address nor to the digest of the
    version. So a worker with other variables runs another model as the same ``3.0.0``, and nothing
    notices.

    The model is loaded once and called through ``mlflow.pyfunc``, a batch in one call. Its input
    depends on its signature:

    - A signature of columns: a DataFrame with one row an event. Values are converted exactly: 3 is
      a double, 1.5 is no long. Other fields are left out. A missing value of an optional column is
      null. MLflow has no null for integers: such a column is left out, in a call of its own.
    - A signature of tensors: arrays, stacked.
    - No signature: records become a DataFrame, other data a list. The columns have the order of the
      fit or of the option ``columns``.
    - A Python model with type hints: a list.

    An event that does not fit fails alone, with the reason ``invalid_input``. The outputs of a
    signature with named columns are objects. For probabilities, log the model with
    ``pyfunc_predict_fn="predict_proba"``.

    MLflow asks a silent server again for minutes. Its own variables limit this
    (``MLFLOW_HTTP_REQUEST_MAX_RETRIES``, ``MLFLOW_HTTP_REQUEST_TIMEOUT``). An alias is waited for
    10 s. Credentials come from MLflow's variables, such as ``MLFLOW_TRACKING_TOKEN``. Set
    ``MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR=false`` for downloads without a bar.

    Options
    -------
    tracking_uri, registry_uri : str
        The servers, without credentials. Default: MLflow's own variables. The registry is at the
        tracking server, unless it is named. Paths are relative to the process that loads the model.
    params : dict
        Sent with every call, as ``params`` of the model's signature.
    columns : list of str
        The fields of a record in the order of the columns. It is for a model without a signature
        that does not know its columns.
    """

    def describe(self, address: Address) -> Description:
        """See :meth:`Scheme.describe`."""
        found = named(address)
        _check_installed(address)
        what = f"version {found.version}" if found.version else found.alias
        return Description(
            model_name(found.name, "model"),
            f"{found.version}.0.0" if found.version else None,
            about=f"MLflow model {found.name}, {what}"[:200],
            alias=found.alias,
        )

    def open(self, address: Address, setting: Setting) -> Endpoint:
        """See :meth:`Scheme.open`."""
        named(address)
        _check_installed(address)
        return MlflowEndpoint(self, address)

    def pin(self, address: Address) -> Address:
        """Return the address of the version that the alias means now. The registry is asked.

        Raises
        ------
        NotFound
            When there is no such model or alias, with near names.
        ModelFailure
            When the registry does not answer within 10 s.
        """
        found = named(address)
        if found.version is not None:
            return address
        return Address(f"models:/{found.name}/{version_now(address)}", address.given)

    def point(self, address: Address, version: Address) -> None:
        """Move the alias in the registry of MLflow.

        Raises
        ------
        InvalidModel
            When *version* is one of another model, or the alias is ``latest``.
        ModelFailure
            When the registry does not answer within 10 s.
        """
        set_alias(address, version)

    def schemas(
        self, address: Address
    ) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
        """Return the schemas of the signature. The model is not loaded.

        For an alias it is the signature of the version that it means now.
        """
        from mlflow.models import Model

        with tempfile.TemporaryDirectory(prefix="mltrigger-", ignore_cleanup_errors=True) as folder:
            path = files_of(self.pin(address), folder, "MLmodel")
            return Signature.of(Model.load(str(path)).to_dict()).schemas()


class MlflowEndpoint(Endpoint):
    """One version, loaded at the first use.

    It is called from several threads if the subscription says so. The model must allow it.
    """

    batches = True

    def __init__(self, scheme: MlflowRegistry, address: Address) -> None:
        self._scheme, self._address = scheme, address
        self._guard = threading.Lock()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._loaded: _Loaded | None = None

    def warm_up(self) -> None:
        """Load the model.

        Raises
        ------
        NotFound
            When the registry has no such model.
        Exception
            Any error of loading, such as a missing library or a damaged file.
        """
        self.batches = self._model().signature.batches

    def call(self, events: Sequence[Event]) -> Sequence[Any]:
        """See :meth:`Endpoint.call`."""
        loaded = self._model()
        answers: list[Any] = [attempt(loaded.part, event.data) for event in events]
        groups: Groups = {}
        for number, answer in enumerate(answers):
            if not isinstance(answer, ModelFailure):
                key, part = answer
                key = key if loaded.signature.batches else number
                numbers, parts = groups.setdefault(key, ([], []))
                numbers.append(number)
                parts.append(part)
        for key, numbers, parts in alike(loaded.feed, groups):
            try:
                found = outputs(loaded.signature, loaded.asked(key, parts), len(numbers))
            except Exception as error:
                if loaded.signature.batches:
                    raise
                found = [error]
            for number, output in zip(numbers, found, strict=True):
                answers[number] = output
        return answers

    def close(self) -> None:
        """Release the model and its files."""
        with self._guard:
            self._loaded = None
            folder, self._folder = self._folder, None
        if folder is not None:
            folder.cleanup()

    def _model(self) -> _Loaded:
        with self._guard:
            if self._loaded is None:
                import mlflow.pyfunc

                self._folder = self._folder or tempfile.TemporaryDirectory(
                    prefix="mltrigger-", ignore_cleanup_errors=True
                )
                path = files_of(self._scheme.pin(self._address), self._folder.name)
                self._loaded = _Loaded(mlflow.pyfunc.load_model(str(path)), self._address)
            return self._loaded


class _Loaded:
    """A loaded model, and the way from events to its input."""

    def __init__(self, model: Any, address: Address) -> None:
        self._model, self._params = model, address.options.get("params")
        self.signature = Signature.of(model.metadata.to_dict())
        unsigned = self.signature.inputs is None and not self.signature.hinted
        self.feed = self._unsigned(address) if unsigned else None

    def part(self, data: Any) -> tuple[Any, Any]:
        """Return a key and the part of an input for *data*. Equal keys share a call."""
        if self.feed is not None:
            return self.feed.part(data)
        row = self.signature.rows(data)
        return self.signature.key(row), row

    def asked(self, key: Any, parts: Sequence[Any]) -> Any:
        """Return the answer of the model for *parts*."""
        if self.feed is None:
            return self._predicted(self.signature.frame(parts))
        return self.feed.call(key, parts)

    def _unsigned(self, address: Address) -> Feed:
        """Return the feed of a model without a signature.

        It is the feed of the model before it was logged, as far as it is known.
        """
        try:
            raw = self._model.get_raw_model()
        except Exception:  # some flavors keep none
            raw = None
        name, columns = f"MLflow model {named(address).name!r}", address.options.get("columns")
        takes = known(raw)
        if (feed := of_head(raw, self._predicted, name, takes, columns)) is not None:
            return feed
        if columns is not None and (takes is None or takes.further):
            takes = of_user(raw, columns, None)
        frames = Frames(self._predicted, name, takes)
        frames.way_out, frames.single = "log it with a signature", True
        return frames

    def _predicted(self, given: Any) -> Any:
        from mlflow.exceptions import MlflowException

        more = {"params": self._params} if self._params else {}
        try:
            return self._model.predict(given, **more)
        except MlflowException as error:
            if error.error_code not in _INVALID:
                raise
            problem = str(error).rpartition("Error: ")[2]  # all the data stand before it
            raise unfit(short(problem, 1000), "MlflowException") from error


def _check_installed(address: Address) -> None:
    spec = importlib.util.find_spec("mlflow")
    if spec is None or spec.origin is None:  # a folder of that name is no package
        raise InvalidModel(
            f"model {short(address.text, 200)!r} needs MLflow: {how_to_install('mlflow')}"
        )
