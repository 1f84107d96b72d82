"""The registry of MLflow: versions, aliases and files of models."""

from __future__ import annotations

import os
import re
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mltrigger.errors import InvalidModel, ModelFailure, NotFound
from mltrigger.text import short
from mltrigger.versions.address import Address, is_secret
from mltrigger.versions.schemes.http.loopback import bypass_proxies
from mltrigger.versions.schemes.http.saying import masked

ANSWER_S = 10.0
"""Longest wait for the meaning of an alias, in seconds. MLflow itself tries for minutes."""
_FORM = re.compile(
    r"models:/(?P<name>[^/:@?#]+)(?:/(?P<version>[1-9]\d{0,17})|/(?P<latest>latest)|@(?P<alias>[\w.-]+))",
    re.ASCII | re.I,
)
_CREDENTIALS = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD")
_ABSENT = frozenset(
    {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "ENDPOINT_NOT_FOUND", "INVALID_PARAMETER_VALUE"}
)


class Named(NamedTuple):
    """A model and one of its versions. The alias may be ``latest``."""

    name: str
    version: str | None
    alias: str | None


def named(address: Address) -> Named:
    """Return the model that *address* names. Its options are checked, too."""
    shown = short(address.text, 200)
    found = _FORM.fullmatch(address.text)
    if found is None:
        first, _, stage = address.rest.strip("/").partition("/")
        name = first.partition("@")[0] or "churn"
        advice = (
            f"write models:/{name}/3 (a version), models:/{name}@champion (an alias) or"
            f" models:/{name}/latest"
        )
        if re.fullmatch(r"staging|production|archived|none", stage, re.I):
            advice = (
                "MLflow has given up stages; give the version an alias, and write"
                f" models:/{name}@{stage.lower()}"
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
    return Named(found["name"], found["version"], "latest" if latest else found["alias"])


def _client(address: Address) -> Any:
    import mlflow

    options = address.options
    tracking = options.get("tracking_uri")
    registry = options.get("registry_uri", tracking)
    for uri in (tracking or mlflow.get_tracking_uri(), registry or mlflow.get_registry_uri()):
        bypass_proxies(uri)
    return mlflow.MlflowClient(tracking_uri=tracking, registry_uri=registry)


def version_now(address: Address) -> str:
    """Return the number of the version that the alias in *address* means now.

    Raises
    ------
    NotFound
        When there is no such model or alias, with near names.
    ModelFailure
        When the registry does not answer within 10 s.
    """
    client, found = _client(address), named(address)
    return str(_answered(address, lambda: _version(client, found)))


def set_alias(address: Address, version: Address) -> None:
    """Let the alias in *address* mean *version* from now on.

    Raises
    ------
    InvalidModel
        When *version* is one of another model, or the alias is ``latest``.
    ModelFailure
        When the registry does not answer within 10 s.
    """
    found = named(address)
    meant = named(version) if version.text.lower().startswith("models:") else None
    if found.alias in (None, "latest") or meant is None or meant.version is None:
        raise InvalidModel(f"no alias of {address.text!r} can mean {version.text!r:.200}")
    if meant.name != found.name:
        raise InvalidModel(
            f"the alias of {address.text!r} cannot mean {version.text!r}: that is another model"
        )
    client, number = _client(address), meant.version

    def move() -> int:
        client.set_registered_model_alias(found.name, found.alias, number)
        return int(number)

    _answered(address, move)


def _version(client: Any, found: Named) -> int:
    from mlflow.exceptions import MlflowException

    try:
        if found.alias != "latest":
            # search_model_versions does not return aliases.
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


def _absent(client: Any, found: Named) -> NotFound:
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


def files_of(address: Address, folder: str, part: str = "") -> Path:
    """Return the path of the files of a version, or of one *part*.

    Files of another machine are downloaded into *folder*.
    """
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    found, options = named(address), address.options
    try:
        source = _client(address).get_model_version_download_uri(found.name, found.version)
        if (here := _here(source)) is not None:
            return here / part
        # MLflow looks up models:/… in the registry of the process, and ignores other settings.
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
    """Return the folder *source*, if it is on this machine."""
    path = Path(
        urllib.request.url2pathname(urllib.parse.urlsplit(source).path)
        if source.startswith("file:")
        else source
    )
    return path if path.is_dir() else None


def _answered(address: Address, ask: Callable[[], int]) -> int:
    """Return the result of *ask*, or give up after 10 s. MLflow's call itself cannot be stopped."""
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
    """Return *problem* without MLflow's credentials, since a server may send them back."""
    secrets = (os.environ.get(name, "").strip() for name in _CREDENTIALS)
    return masked(str(problem), [secret for secret in secrets if secret])
