"""A registered version, found again where the registry says that it is."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from mltrigger.errors import NotFound
from mltrigger.versions.address import Address
from mltrigger.versions.code.located import ABSENT, code_at
from mltrigger.versions.code.weights import Weights
from mltrigger.versions.describe import as_model, load
from mltrigger.versions.model import Model
from mltrigger.versions.schema.schema import Schema
from mltrigger.versions.version import SHOWN, ModelVersion


def model_of(version: ModelVersion) -> Model:
    """Return the model of *version*, from its address or its import path.

    Raises
    ------
    NotFound
        When it is not there, or other code is.
    """
    model = _imported(version) if version.address is None else _at_address(version, version.address)
    takes, gives = model.schemas()
    return dataclasses.replace(
        model.of_version(version),
        input_schema=_agreed(takes, version.input_schema),
        output_schema=_agreed(gives, version.output_schema),
    )


def _at_address(version: ModelVersion, address: str) -> Model:
    model = Model(Address(address, version.options or "{}"), version.name)
    if version.changes(model.describe()):
        raise NotFound(
            f"model {version}: what {address!r} names is not here, or not what was registered"
            " (files are looked for from the folder of this process); start it where it was"
            " registered, or register a new version"
        )
    return model


def _imported(version: ModelVersion) -> Model:
    path = version.import_path or ""
    _check_before_import(version, path)
    called_by = {
        name: value for name, value in (version.called_by or {}).items() if name != "schemas"
    }
    try:
        model = as_model(load(path, version.name), **called_by)
    except (Exception, SystemExit) as error:  # a module may do anything while it is imported
        raise NotFound(
            f"model {version} cannot be imported from {path}: {type(error).__name__}: {error}"
        ) from error
    if changes := version.changes(model.describe()):
        raise NotFound(
            f"model {version}: {path} holds other code now ({', '.join(changes[:SHOWN])});"
            " register it under a new version"
        )
    return model


def _check_before_import(version: ModelVersion, path: str) -> None:
    """Check the files and, as far as its text tells, the code of *version*.

    Importing runs the module, and other code must not run.
    """
    Weights(version.files).check(version.name)
    code = code_at(path)
    if code is not None and code != (version.parts or {}).get("code", version.digest):
        change = "is not there" if code == ABSENT else "holds other code now"
        raise NotFound(
            f"model {version}: {path} {change}; register it under a new version (the module was not"
            " imported)"
        )


def _agreed(own: Schema | None, kept: str | None) -> Any:
    """Return the registered schema.

    Prefer the code's own if it is the same, since the model gets its objects.
    """
    if kept is None or (own is not None and json.loads(json.dumps(own.json)) == json.loads(kept)):
        return own
    return json.loads(kept)
