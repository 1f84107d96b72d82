"""The columns that a fitted model takes of a record, and their order.

The model says them, or ``columns=``, or the input schema. Libraries are recognised by the names of
their classes and never imported here. Names that a library made up for an array (``Column_0``,
``x1``) do not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mltrigger.errors import InvalidModel
from mltrigger.text import short

_NUMBERED = ("sklearn", "imblearn", "lightgbm", "catboost", "xgboost", "statsmodels")
"""Libraries whose models take columns by number after a fit on an array."""
_INSIDE = ("best_estimator_", "estimator_", "regressor_", "estimators_", "calibrated_classifiers_")
"""The attributes in which scikit-learn keeps a wrapped model."""


class Takes(NamedTuple):
    """The columns of a model.

    Attributes
    ----------
    names : tuple of str
        In their order.
    needed : frozenset of str
        The columns without which there is no answer. A missing other one is left out.
    given : mapping
        Values of columns that an event need not have, such as the constant of a regression.
    further : bool
        Whether these are optional and more fields follow, in alphabetical order.
    numbered : bool
        Whether the columns of the frame are 0, 1, 2 …, since the model knows no names.
    """

    names: tuple[str, ...]
    needed: frozenset[str]
    given: Mapping[str, Any] = {}
    further: bool = False
    numbered: bool = False


def is_a(target: Any, library: str, name: str) -> bool:
    """Whether *target*, an object or a class, is or inherits *name* of *library*."""
    kind = target if isinstance(target, type) else type(target)
    return any(base.__name__ == name and _library(base) == library for base in kind.__mro__)


def is_of_library(target: Any) -> bool:
    """Whether *target* is a model of a library whose methods take a table."""
    return any(_library(base) in _NUMBERED for base in type(target).__mro__)


def _library(kind: Any) -> str:
    return str(getattr(kind, "__module__", "")).partition(".")[0]


# -- what a model knows ----------------------------------------------------------------------------


def known(target: Any) -> Takes | None:
    """Return the columns that *target* knows from its fit, ``None`` if none."""
    for look in (_of_statsmodels, _of_mlflow, _of_booster, _of_fit, _of_later_steps):
        try:
            if (found := look(target)) is not None:
                return found
        except Exception:  # noqa: S112 - not fitted, or a property that raises: then nothing is known from here
            continue
    return None


def _all(names: Iterable[Any]) -> Takes:
    columns = tuple(map(str, names))
    return Takes(columns, frozenset(columns))


def _of_fit(target: Any) -> Takes | None:
    """Return the names that scikit-learn, and its followers, keep of a fit on a frame."""
    names = [str(name) for name in target.feature_names_in_]
    if _library(type(target)) == "lightgbm" and _made_up(names, "Column_{}"):
        return None
    takes = _all(names)
    return takes._replace(needed=_needed_by_columns(target, names)) if names else None


def _needed_by_columns(target: Any, names: Sequence[str]) -> frozenset[str]:
    """Return the needed names. A ColumnTransformer at the head needs no dropped column."""
    head = _first_step(target)
    if not is_a(head, "sklearn", "ColumnTransformer"):
        return frozenset(names)
    places = getattr(head, "_transformer_to_input_indices", {"": range(len(names))})
    return frozenset(
        names[place]
        for name in places
        if head.named_transformers_.get(name) != "drop"
        for place in places[name]
    )


def _of_later_steps(target: Any) -> Takes | None:
    """Return the names that a later step of a pipeline knows, behind a foreign head.

    They give the order, and no more.
    """
    for _, step in getattr(target, "best_estimator_", target).steps:
        if (found := known(step)) is not None:
            return found._replace(needed=frozenset(), further=True, numbered=False)
    return None


def _of_booster(target: Any) -> Takes | None:
    library = next(
        (
            name
            for name in ("lightgbm", "catboost", "xgboost")
            if any(_library(b) == name for b in type(target).__mro__)
        ),
        "",
    )
    if library == "lightgbm" and callable(getattr(target, "feature_name", None)):
        names = list(target.feature_name())
        return None if _made_up(names, "Column_{}") else _all(names)
    if library == "catboost":
        return None if _made_up(target.feature_names_, "{}") else _all(target.feature_names_)
    if library == "xgboost" and not hasattr(target, "get_booster"):
        return _all(target.feature_names) if target.feature_names else None
    return None


def _made_up(names: Sequence[Any], form: str) -> bool:
    return [str(name) for name in names] == [form.format(number) for number in range(len(names))]


def _of_statsmodels(target: Any) -> Takes | None:
    """Return the columns of a regression. Its constant need not be sent."""
    if not any(_library(base) == "statsmodels" for base in type(target).__mro__):
        return None
    model = target.model
    if getattr(model, "formula", None) is not None:
        right = str(model.formula).partition("~")[2]
        used = [
            str(c)
            for c in model.data.frame.columns
            if re.search(rf"(?<![\w.]){re.escape(str(c))}(?!\w|\s*\()", right)
        ]
        return _all(used)
    if not any(base.__name__ == "PandasData" for base in type(model.data).__mro__):
        return None
    takes = _all(model.exog_names)
    constant = _constant(model)
    return takes if constant is None else takes._replace(given={model.exog_names[constant]: 1.0})


def _constant(model: Any) -> int | None:
    """Return the place of the column of ones, ``None`` without one."""
    place = getattr(model.data, "const_idx", None)
    return int(place) if place is not None and model.exog_names[place] == "const" else None


def _of_mlflow(target: Any) -> Takes | None:
    if not is_a(target, "mlflow", "PyFuncModel"):
        return None
    schema = target.metadata.get_input_schema()
    return (
        Takes(tuple(schema.input_names()), frozenset(schema.required_input_names()))
        if schema.has_input_names()
        else None
    )


# -- what the user says ----------------------------------------------------------------------------


def of_user(target: Any, columns: Sequence[str], schema: Mapping[str, Any] | None) -> Takes:
    """Return the *columns* that the user gave for *target*.

    A column that *schema* does not require is null, or its default.
    """
    properties = (schema or {}).get("properties") or {}
    required = (schema or {}).get("required") or ()
    given: dict[str, Any] = {
        name: properties[name].get("default")
        for name in columns
        if name in properties and name not in required
    }
    names = list(columns)
    if any(_library(base) == "statsmodels" for base in type(target).__mro__):
        place = _constant(target.model)
        if place is not None and len(names) == len(target.model.exog_names) - 1:
            names.insert(place, "const")
            given["const"] = 1.0
    formula = getattr(getattr(target, "model", None), "formula", None)
    return Takes(
        tuple(names),
        frozenset(columns),
        given,
        numbered=formula is None and _library(type(_first_step(target))) in _NUMBERED,
    )


def checked(columns: Any, target: Any, name: str) -> tuple[str, ...]:
    """Return the names given as ``columns=`` of the model *name*.

    Raises
    ------
    InvalidModel
        When it is no list of different names, or *target* was fitted with others.
    """
    if isinstance(columns, str) or not isinstance(columns, Iterable):
        raise InvalidModel(
            f"model {name!r}: columns={short(columns)}: write a list of names, such as"
            " columns=['height', 'width']"
        )
    found = tuple(columns)
    if (
        not found
        or len(set(found)) != len(found)
        or not all(isinstance(each, str) and each for each in found)
    ):
        raise InvalidModel(
            f"model {name!r}: columns={short(list(found))}: each is the name of one field of an"
            " event"
        )
    takes = None if isinstance(target, type) else known(target)
    if (
        takes is not None
        and not takes.further
        and not takes.needed - takes.given.keys() <= set(found) <= set(takes.names)
    ):
        fitted = short(", ".join(map(repr, takes.names)), 300)
        raise InvalidModel(
            f"model {name!r} was fitted with the columns {fitted}: leave columns= out, it knows"
            " their order"
        )
    return found


def wants_order(target: Any) -> bool:
    """Whether the user has to give the order of columns of *target*. Unknown for a class."""
    takes = None if isinstance(target, type) else known(target)
    return takes is None or takes.further


def of_schema(schema: Mapping[str, Any] | None) -> tuple[str, ...] | None:
    """Return the fields of an object in the order of its JSON Schema."""
    if schema is None:
        return None
    reference = str(schema.get("$ref", "")).removeprefix("#/$defs/")
    properties = schema.get("$defs", {}).get(reference, schema).get("properties")
    return tuple(properties) if isinstance(properties, Mapping) and properties else None


# -- the head of a pipeline ------------------------------------------------------------------------


def head(target: Any) -> str:
    """Return the kind of input of a model: ``text``, ``records`` (dicts) or ``files`` (paths)."""
    if any(base.__module__ == "sklearn.feature_extraction.text" for base in type(target).__mro__):
        return "text" if getattr(target, "input", "content") == "content" else "files"
    if is_a(target, "sklearn", "DictVectorizer") or (
        is_a(target, "sklearn", "FeatureHasher") and target.input_type == "dict"
    ):
        return "records"
    if isinstance(members := getattr(target, "transformer_list", None), list):
        return _agreed([head(member) for _, member in members if not isinstance(member, str)])
    if isinstance(getattr(target, "steps", None), list):
        return _head_of_steps([step for _, step in target.steps])
    return _agreed([head(inner) for inner in _inside(target)])


def _agreed(kinds: list[str]) -> str:
    return kinds[0] if kinds and len(set(kinds)) == 1 else ""


def _head_of_steps(steps: list[Any]) -> str:
    """Return the kind of the first step that has one.

    Functions and foreign classes before it must keep it.
    """
    for step in steps:
        if found := head(step):
            return found
        own = not isinstance(step, str) and step is not None and _library(type(step)) != "sklearn"
        if not (
            step is None
            or isinstance(step, str)
            or own
            or is_a(step, "sklearn", "FunctionTransformer")
        ):
            return ""
    return ""


def _inside(target: Any) -> list[Any]:
    """Return the first model inside *target*, if it is of a library known to wrap models."""
    for name in _INSIDE if _library(type(target)) in _NUMBERED else ():
        found = vars(target).get(name)
        if isinstance(found, list):
            return [getattr(each, "estimator", each) for each in found[:1]]
        if found is not None and name.endswith("r_"):
            return [found]
    return []


def _first_step(target: Any) -> Any:
    """Return the first step of a pipeline, also of a wrapped one."""
    if isinstance(steps := getattr(target, "steps", None), list):
        real = [step for _, step in steps if step is not None and not isinstance(step, str)]
        return _first_step(real[0]) if real else target
    inner = _inside(target)
    return _first_step(inner[0]) if inner else target
