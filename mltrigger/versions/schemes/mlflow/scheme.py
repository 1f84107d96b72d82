"""Models of an MLflow registry: ``models:/churn/3``, ``models:/churn@champion``.

The extra ``mlflow`` (``mlflow-skinny``) is enough.
"""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mltrigger.errors import InvalidModel, ModelFailure, NotFound, how_to_install
from mltrigger.event.event import Event
from mltrigger.text import short
from mltrigger.versions.address import Address, is_secret
from mltrigger.versions.columns import known, of_user
from mltrigger.versions.running.feeding import of_head
from mltrigger.versions.running.feeds import Feed, Frames, Groups, alike
from mltrigger.versions.scheme import Description, Endpoint, Scheme, Setting
from mltrigger.versions.schemes.http.answers import masked
from mltrigger.versions.schemes.http.loopback import bypass_proxies
from mltrigger.versions.schemes.mlflow.signature import Signature, outputs

ANSWER_S = 10.0
"""Longest wait for a registry that is asked what an alias means; MLflow itself tries again for
minutes.
"""
_FORM = re.compile(
    r"models:/(?P<name>[^/:@?#]+)(?:/(?P<version>[1-9]\d{0,17})|/(?P<latest>latest)|@(?P<alias>[\w.-]+))",
    re.ASCII | re.I,
)
_CREDENTIALS = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD")
_INVALID = frozenset({"INVALID_PARAMETER_VALUE", "BAD_REQUEST"})
_ABSENT = frozenset(
    {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "ENDPOINT_NOT_FOUND", "INVALID_PARAMETER_VALUE"}
)


class MlflowRegistry(Scheme):
    """``models:/NAME/3``, ``models:/NAME@alias`` or ``models:/NAME/latest``: a model of the
    registry, loaded into this process.

    **Loading a model runs code that its author put into the registry**, with the rights of this
    process, whatever its flavor. By naming it in a registration the user decides that whoever may
    write there may do so; no event does.

    Version 3 is ``3.0.0``. An alias, and ``latest`` (the highest version that is ready), mean
    another version tomorrow: they are looked up when events come, and the version that ran is
    recorded. Stages, which MLflow has given up, are refused.

    **Name the registry with** ``registry_uri`` **or** ``tracking_uri`` **where there is more than
    one.** Without them each process asks the one that its own ``MLFLOW_TRACKING_URI`` and
    ``MLFLOW_REGISTRY_URI`` name; which one that is belongs neither to the address nor to the digest
    of the version, so a worker with other variables runs another model as the same ``3.0.0``, and
    nothing notices.

    The model is loaded once and called through ``mlflow.pyfunc``, a batch in one call. A model with
    a signature of columns gets a DataFrame of one row an event, converted exactly: 3 is a double
    and 1.5 no long. What is missing from an optional column is null; a column of integers is left
    out then, in a call of its own, since MLflow has no null for it. Other fields are left out.
    Tensors are arrays, stacked. Without a signature records are a DataFrame, its columns in the
    order of the fit or of the option ``columns``, and anything else is a list, as is what a Python
    model with type hints gets. What does not fit, to us or to MLflow, fails alone with the reason
    ``invalid_input``. The outputs of a signature with named columns are objects. For probabilities,
    log the model with ``pyfunc_predict_fn="predict_proba"``.

    MLflow asks its server again and again for minutes when that does not answer, as its own
    variables say (``MLFLOW_HTTP_REQUEST_MAX_RETRIES``, ``MLFLOW_HTTP_REQUEST_TIMEOUT``); an alias
    is waited for 10 s. Credentials come from MLflow's variables (``MLFLOW_TRACKING_TOKEN``, …), and
    ``MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR=false`` keeps downloads quiet.

    Options
    -------
    tracking_uri, registry_uri : str
        Where the models are, without credentials; by default what MLflow is told by its own
        variables. The registry is where the tracking server is, unless it is named. Paths are
        relative to the process that loads the model.
    params : dict
        Sent with every call, as ``params`` of the model's signature.
    columns : list of str
        The fields of a record in the order of the columns, for a model without a signature that
        does not know it by itself.
    """

    def describe(self, address: Address) -> Description:
        """See :meth:`Scheme.describe`."""
        found = _read(address)
        _check_installed(address)
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", found.name).strip("-._")[:80] or "model"
        what = f"version {found.version}" if found.version else found.alias
        return Description(
            name,
            f"{found.version}.0.0" if found.version else None,
            about=f"MLflow model {found.name}, {what}"[:200],
            alias=found.alias,
        )

    def open(self, address: Address, setting: Setting) -> Endpoint:
        """See :meth:`Scheme.open`."""
        _read(address)
        _check_installed(address)
        return MlflowEndpoint(self, address)

    def pin(self, address: Address) -> Address:
        """Ask the registry which version the alias means now.

        Raises
        ------
        NotFound
            When there is no such model or alias; with the near ones.
        ModelFailure
            When the registry does not answer, within 10 s.
        """
        found = _read(address)
        if found.version is not None:
            return address
        client = _client(address)
        version = _answered(address, lambda: _version(client, found))
        return Address(f"models:/{found.name}/{version}", address.given)

    def schemas(
        self, address: Address
    ) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
        """Return what the signature of the model says, without loading it; of an alias, what it
        says of the version it means now.
        """
        from mlflow.models import Model

        with tempfile.TemporaryDirectory(prefix="mltrigger-", ignore_cleanup_errors=True) as folder:
            path = _files(self.pin(address), folder, "MLmodel")
            return Signature.of(Model.load(str(path)).to_dict()).schemas()


class MlflowEndpoint(Endpoint):
    """One version, loaded at the first use; called from several threads when the subscription says
    so, which its author must allow.
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
            Whatever loading raises: a library that is not installed here, a file that is damaged.
        """
        self.batches = self._model().signature.batches

    def call(self, events: Sequence[Event]) -> Sequence[Any]:
        """See :meth:`Endpoint.call`."""
        loaded = self._model()
        answers: list[Any] = [None] * len(events)
        groups: Groups = {}
        for number, event in enumerate(events):
            try:
                key, part = loaded.part(event.data)
            except ModelFailure as failure:
                answers[number] = failure
                continue
            numbers, parts = groups.setdefault(
                key if loaded.signature.batches else number, ([], [])
            )
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
        """Let go of the model and its files."""
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
                path = _files(self._scheme.pin(self._address), self._folder.name)
                self._loaded = _Loaded(mlflow.pyfunc.load_model(str(path)), self._address)
            return self._loaded


class _Loaded:
    """A model, and how events become its input."""

    def __init__(self, model: Any, address: Address) -> None:
        self._model, self._params = model, address.options.get("params")
        self.signature = Signature.of(model.metadata.to_dict())
        self.feed = (
            None
            if self.signature.inputs is not None or self.signature.hinted
            else self._unsigned(address)
        )

    def part(self, data: Any) -> tuple[Any, Any]:
        """Return the part of an input that *data* is; those with equal keys share a call."""
        if self.feed is not None:
            return self.feed.part(data)
        row = self.signature.rows(data)
        return self.signature.key(row), row

    def asked(self, key: Any, parts: Sequence[Any]) -> Any:
        """Return what the model answers for *parts*."""
        return (
            self._predicted(self.signature.frame(parts))
            if self.feed is None
            else self.feed.call(key, parts)
        )

    def _unsigned(self, address: Address) -> Feed:
        """Return how a model without a signature is called: as what it was before it was logged, as
        far as that is known.
        """
        try:
            raw = self._model.get_raw_model()
        except Exception:  # a flavor that keeps none
            raw = None
        name, columns, takes = (
            f"MLflow model {_read(address).name!r}",
            address.options.get("columns"),
            known(raw),
        )
        if (feed := of_head(raw, self._predicted, name, takes, columns)) is not None:
            return feed
        if columns is not None and (takes is None or takes.further):
            takes = of_user(raw, columns, None)
        frames = Frames(self._predicted, name, takes)
        frames.way_out, frames.single = "log it with a signature", True
        return frames

    def _predicted(self, given: Any) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return (
                self._model.predict(given, params=self._params)
                if self._params
                else self._model.predict(given)
            )
        except MlflowException as error:
            if error.error_code not in _INVALID:
                raise
            problem = str(error).rpartition("Error: ")[2]  # before it stands all the data
            raise ModelFailure(
                short(problem, 1000), reason="invalid_input", permanent=True, kind="MlflowException"
            ) from error


class _Read(NamedTuple):
    name: str
    version: str | None
    alias: str | None
    """``latest`` as well."""


def _read(address: Address) -> _Read:
    """Return what *address* says, with its options checked."""
    shown = short(address.text, 200)
    found = _FORM.fullmatch(address.text)
    if found is None:
        path = address.rest.strip("/").partition("/")
        name = path[0].partition("@")[0] or "churn"
        advice = (
            f"write models:/{name}/3 (a version), models:/{name}@champion (an alias) or"
            f" models:/{name}/latest"
        )
        if re.fullmatch(r"staging|production|archived|none", path[2], re.I):
            advice = (
                "MLflow has given up stages; give the version an alias, and write"
                f" models:/{name}@{path[2].lower()}"
            )
        elif address.rest.startswith("//"):
            advice = "name the registry with the option registry_uri; " + advice
        raise InvalidModel(f"model {shown!r}: {advice}")
    options = address.checked(tracking_uri=str, registry_uri=str, params=dict, columns=list)
    for name in ("tracking_uri", "registry_uri"):
        parts = urllib.parse.urlsplit(options.get(name, ""))
        if "@" in parts.netloc or any(
            is_secret(key) for key, _ in urllib.parse.parse_qsl(parts.query, keep_blank_values=True)
        ):
            raise InvalidModel(
                f"model {shown!r}: option {name} is stored, so it must not hold a user or a"
                f" password; leave the option out and set MLFLOW_{name.upper()}, or set"
                " MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, where the model runs"
            )
    latest = found["latest"] or ((found["alias"] or "").lower() == "latest")
    return _Read(found["name"], found["version"], "latest" if latest else found["alias"])


def _check_installed(address: Address) -> None:
    spec = importlib.util.find_spec("mlflow")
    if spec is None or spec.origin is None:  # a folder of that name is no package
        raise InvalidModel(
            f"model {short(address.text, 200)!r} needs MLflow: {how_to_install('mlflow')}"
        )


def _client(address: Address) -> Any:
    import mlflow

    options = address.options
    tracking = options.get("tracking_uri")
    registry = options.get("registry_uri", tracking)
    for uri in (tracking or mlflow.get_tracking_uri(), registry or mlflow.get_registry_uri()):
        bypass_proxies(uri)
    return mlflow.MlflowClient(tracking_uri=tracking, registry_uri=registry)


def _version(client: Any, found: _Read) -> int:
    """Return the number of the version that an alias means."""
    from mlflow.exceptions import MlflowException

    try:
        if found.alias != "latest":
            # search_model_versions leaves out the aliases that a version has
            return int(client.get_model_version_by_alias(found.name, found.alias).version)
        client.get_registered_model(found.name)
        name = found.name.replace("'", "\\'")
        page = client.search_model_versions(
            f"name='{name}'", order_by=["version_number DESC"], max_results=100
        )
        ready = [int(each.version) for each in page if each.status == "READY"]
    except MlflowException as error:
        if error.error_code in _ABSENT:
            raise _absent(client, found) from error
        raise
    if not ready:
        raise NotFound(f"MLflow model {found.name!r} has no version that is ready")
    return max(ready)


def _absent(client: Any, found: _Read) -> NotFound:
    from mlflow.exceptions import MlflowException

    try:
        model = client.get_registered_model(found.name)
    except MlflowException:
        return NotFound.of(
            "MLflow model",
            found.name,
            [each.name for each in client.search_registered_models(max_results=100)],
        )
    return NotFound.of(
        "alias of MLflow model",
        f"{found.name}@{found.alias}",
        [f"{found.name}@{alias}" for alias in model.aliases],
    )


def _files(address: Address, folder: str, part: str = "") -> Path:
    """Return where the files of the version that *address* names lie, or one *part*; those of
    another machine come into *folder*.
    """
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    found, options = _read(address), address.options
    try:
        source = _client(address).get_model_version_download_uri(found.name, found.version)
        if (here := _here(source)) is not None:
            return here / part
        # MLflow looks up models:/… in the registry of the process, whatever it is told besides.
        where = source if "tracking_uri" in options or "registry_uri" in options else address.text
        uri = f"{where}/{part}" if part else where
        return Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=uri, dst_path=folder, tracking_uri=options.get("tracking_uri")
            )
        )
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise NotFound(
                f"no model {address.text!r} in MLflow's registry: {short(_masked(error), 200)}"
            ) from error
        raise _unavailable(address, error) from error


def _here(source: str) -> Path | None:
    """Return the folder of this machine that *source* names, if it is there."""
    path = Path(
        urllib.request.url2pathname(urllib.parse.urlsplit(source).path)
        if source.startswith("file:")
        else source
    )
    return path if path.is_dir() else None


def _answered(address: Address, ask: Callable[[], int]) -> int:
    """Return what *ask* returns; give up when that takes too long, since nothing stops MLflow."""
    box: list[Any] = []

    def run() -> None:
        try:
            box.append(ask())
        except Exception as error:
            box.append(error)

    thread = threading.Thread(target=run, name="mltrigger-mlflow", daemon=True)
    thread.start()
    thread.join(ANSWER_S)
    if not box:
        raise _unavailable(address, f"no answer within {ANSWER_S:g} s")
    if isinstance(box[0], NotFound):
        raise box[0]
    if isinstance(box[0], Exception):
        raise _unavailable(address, box[0]) from box[0]
    version: int = box[0]
    return version


def _unavailable(address: Address, problem: object) -> ModelFailure:
    return ModelFailure(
        f"MLflow's registry cannot be asked for {address.text!r}: {short(_masked(problem), 500)}",
        reason="model_unavailable",
        whole=True,
        kind=type(problem).__name__ if isinstance(problem, Exception) else "Timeout",
    )


def _masked(problem: object) -> str:
    """Return *problem* without MLflow's own credentials: a server may send them back."""
    return masked(
        str(problem),
        [secret for name in _CREDENTIALS if (secret := os.environ.get(name, "").strip())],
    )
