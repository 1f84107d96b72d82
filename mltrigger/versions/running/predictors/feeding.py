"""Finds the feed of a predictor from its type, when it is loaded."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from mltrigger.versions.columns import Takes, head, is_a, is_of_library, known, of_user
from mltrigger.versions.describe import Model
from mltrigger.versions.running.predictors.feeds import Feed, Files, Records, Texts, named
from mltrigger.versions.running.predictors.nets import (
    Boosted,
    Keras,
    Module,
    Pipelined,
    Torch,
    parted,
)
from mltrigger.versions.running.predictors.tables import Frames


def feed_of(model: Model, target: Any) -> Feed:
    """Return the feed for the predictor *target*, which *model* describes."""
    name, method, columns = repr(model.name), getattr(target, model.method), model.ordered()
    if is_a(target, "transformers", "Pipeline") and model.method in (
        "predict",
        "transform",
        "__call__",
    ):
        return Pipelined(target, name, columns)
    if any(
        is_a(target, library, "Model") for library in ("keras", "tf_keras")
    ) and model.method in ("predict", "predict_on_batch"):
        return Keras(target, method, name, columns, quiet=model.method == "predict")
    is_torch = is_a(target, "torch", "Module")
    if is_torch and model.method in ("__call__", "forward"):
        return Torch(target, method, name, columns)
    asked = (
        functools.partial(_by_event, method)
        if is_of_library(target) and not is_a(target, "xgboost", "Booster")
        else method
    )
    feed = named(_fitted(model, target, asked, columns), target, model.method)
    return Module(target, method, feed) if is_torch else feed


def _by_event(method: Callable[[Any], Any], given: Any) -> Any:
    """Return the answer of *method*, split by event if it is a tuple of arrays.

    Such a tuple has, for example, distances and neighbours.
    """
    answer = method(given)
    return parted(answer, len(given), lists=False) if isinstance(answer, tuple) else answer


def _fitted(model: Model, target: Any, method: Any, columns: Sequence[str] | None) -> Feed:
    name, takes = repr(model.name), known(target)
    if (feed := of_head(target, method, name, takes, columns)) is not None:
        return feed
    if columns is not None and (takes is None or takes.further):
        schema = model.schemas()[0]
        takes = of_user(target, columns, None if schema is None else schema.json)
    if is_a(target, "xgboost", "Booster"):
        return Boosted(method, name, takes)
    return Frames(
        method,
        name,
        takes,
        floats=any(
            base.__module__.startswith(("lightgbm.", "xgboost.")) for base in type(target).__mro__
        ),
    )


def of_head(
    target: Any, method: Any, name: str, takes: Takes | None, columns: Sequence[str] | None
) -> Feed | None:
    """Return the feed of a model whose first step takes no columns, ``None`` for all others."""
    if not (kind := head(target)) or not (takes is None or takes.further):
        return None
    if kind == "text":
        return Texts(
            method, name, columns[0] if columns is not None and len(columns) == 1 else None
        )
    return Records(method, name) if kind == "records" else Files(method, name)
