"""Which schemes there are: ours, and those that other packages add by an entry point; each is loaded when it is first used."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import re

from mltrigger.errors import InvalidModel, NotFound
from mltrigger.models.address import Address
from mltrigger.models.schemes.base import Description, Endpoint, Scheme, Setting

__all__ = ["Description", "Endpoint", "Scheme", "Setting", "is_address", "scheme_of"]

GROUP = "mltrigger.models"
OWN = {
    "oip+http": "oip:OpenInference", "oip+https": "oip:OpenInference", "kserve+http": "json_http:KServe",
    "kserve+https": "json_http:KServe", "mlflow+http": "json_http:MlflowServer", "mlflow+https": "json_http:MlflowServer",
    "http": "json_http:JsonHttp", "https": "json_http:JsonHttp", "openai+http": "openai:OpenAI", "openai+https": "openai:OpenAI",
    "models": "mlflow:MlflowRegistry", "arn": "aws:AwsArn", "sagemaker": "aws:SageMaker", "command": "command:Command",
    "onnx": "onnx:Onnx",
}  # fmt: skip
"""Scheme -> module of this room and class."""
_FORM = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.+)", re.DOTALL)
_VERSION = re.compile(r"latest|\d+(\.\d+){0,2}([-+].*)?")


def is_address(text: str) -> bool:
    """Whether *text* names a model by an address, rather than a selector or an import path."""
    found = _FORM.fullmatch(text)
    if found is None or _VERSION.fullmatch(found[2]):
        return False
    scheme = found[1].lower()
    return scheme in OWN or found[2].startswith("/") or scheme in _others()


def scheme_of(address: Address) -> Scheme:
    """Return the scheme of *address*; a wrong one lists the near ones."""
    name = address.scheme
    if name in OWN:
        module, _, attribute = OWN[name].partition(":")
        found = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    else:
        others = _others()
        if name not in others:
            raise NotFound.of("scheme of models", name, [*OWN, *others], "packages add others by the entry point mltrigger.models")
        try:
            found = others[name].load()
        except Exception as error:  # whatever another package does while it is imported
            raise InvalidModel(f"scheme {name!r}: {others[name].value} cannot be loaded: {error}") from error
    scheme = found() if isinstance(found, type) else found
    if not isinstance(scheme, Scheme):
        raise InvalidModel(f"scheme {name!r}: {type(scheme).__name__} is no mltrigger.models.schemes.base.Scheme")
    return scheme


@functools.cache
def _others() -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name.lower(): point for point in importlib.metadata.entry_points(group=GROUP)}
