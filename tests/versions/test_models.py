"""Models: what is accepted as one, which code it is, and what a call of it can do to us (nothing)."""

import array
import asyncio
import collections
import dataclasses
import functools
import hashlib
import inspect
import itertools
import json
import linecache
import math
import os
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import (  # noqa: UP035
    Annotated,
    Any,
    List,
    NamedTuple,
    Optional,
)

import numpy as np
import pandas as pd
import pytest
import scipy

import mltrigger as mt
from mltrigger import Event
from mltrigger.errors import InvalidModel, InvalidName
from mltrigger.versions.code.captured import digest_of
from mltrigger.versions.describe import Model, import_path, load
from mltrigger.versions.running import invoke
from mltrigger.versions.running.invoke import Result
from mltrigger.versions.running.thread import Invoker

ROOT = Path(__file__).parents[2]


_numbers = itertools.count(1)
Car = collections.namedtuple("Car", ["make", "year"])


def cell(source: str, name: str = "f") -> Any:
    """Return *name* as a notebook cell with *source* defines it: in ``__main__``, its text kept by
    linecache.
    """
    filename = f"<cell {next(_numbers)}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    namespace: dict[str, Any] = {"__name__": "__main__", "mt": mt, "functools": functools}
    exec(compile(source, filename, "exec"), namespace)
    return namespace[name]


# -- models that the tests hand over, at the top of a module so that another process could find them


def double(x: Any) -> Any:
    """Twice as much.

    Not the first line.
    """
    return x * 2


@mt.model("halver", version="1.2.0")
def halve(x: Any) -> Any:
    return x / 2


def no_argument() -> None: ...
def two_arguments(a: Any, b: Any) -> None: ...
def keyword_needed(a: Any, *, b: Any) -> None: ...
async def asynchronous(x: Any) -> Any: ...


class NeedsWeights:
    def __init__(self, weights: list[float]) -> None:
        self.weights = weights

    def predict(self, rows: Any) -> Any:
        return rows


class Uncallable:
    pass


def generating(x: Any) -> Iterator[Any]:
    yield x


async def generating_asynchronously(x: Any) -> Any:
    yield x


def takes_defaults(a: Any, b: int = 1, *rest: Any, c: int = 2, **others: Any) -> list[Any]:
    return [a, b, c]


class Called:
    def __call__(self, x: Any) -> Any:
        return x

    def method(self, x: Any) -> Any:
        return x

    def without(self) -> None: ...


class CalledWithout:
    def __call__(self) -> None: ...


class CalledAsynchronously:
    async def __call__(self, x: Any) -> Any: ...


class Predictor:
    """Adds what it was fitted with."""

    def __init__(self, added: int = 1) -> None:
        self.added = added
        self.seen: list[Any] = []

    def predict(self, rows: Any) -> Any:
        self.seen.append(rows)
        return [len(rows) + self.added] * len(rows)

    def score(self, rows: Any) -> Any:
        return [0.5] * len(rows)


class PredictorWithout:
    def predict(self) -> None: ...


class PredictorAsynchronous:
    async def predict(self, rows: Any) -> Any: ...


class PredictorOfNothing:
    predict = 5


class PredictorCalled(Predictor):
    def __call__(self, x: Any) -> Any:
        raise AssertionError("predict goes first")


def invoker(target: Any, **described: Any) -> Invoker:
    return Invoker(mt.model(target, **{"name": "tried", **described}))


def outcome(result: Result) -> tuple[str | None, bool]:
    return result.reason, result.permanent


# -- what is accepted (BI-111) ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (no_argument, "must take one argument"),
        (two_arguments, "must take one argument"),
        (keyword_needed, "must take one argument"),
        (CalledWithout(), "must take one argument"),
        (Called().without, "must take one argument"),
        (functools.partial(double, 1), "must take one argument"),
        (generating, "generator function"),
        (generating_asynchronously, "generator|async"),
        (functools.partial(generating), "generator function"),
        (NeedsWeights, "NeedsWeights cannot be made without arguments"),
        (Uncallable, "objects of Uncallable cannot be called"),
        (5, "int cannot serve"),
        ([double], "list cannot serve"),
        (PredictorWithout(), "predict"),
        (PredictorAsynchronous(), "async"),
        (PredictorOfNothing(), "predict"),
    ],
)
def test_what_cannot_be_called_with_an_event_is_refused_before_the_first_one(
    target: Any, says: str
) -> None:
    with pytest.raises(InvalidModel, match=says):
        mt.model(target, name="tried")


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (double, "callable"),
        (takes_defaults, "callable"),
        (Called(), "callable"),
        (Called().method, "callable"),
        (functools.partial(two_arguments, 1), "callable"),
        (functools.partial(two_arguments, b=1), "callable"),
        (len, "callable"),
        (str.upper, "callable"),
        (Predictor(), "predictor"),
        (PredictorCalled(), "predictor"),
        (Predictor().predict, "callable"),
    ],
)
def test_the_kind_follows_from_the_object(target: Any, kind: str) -> None:
    assert mt.model(target).kind == kind


def test_a_callable_that_takes_lists_is_a_batch_model() -> None:
    assert mt.model(double, batch=True).kind == "batch"
    assert mt.model(Predictor(), batch=True).kind == "predictor"


def test_another_method_of_a_predictor_may_be_named() -> None:
    model = mt.model(Predictor(), method="score")

    assert Invoker(model).one(Event(1)).output == "0.5"
    assert model([1, 2]) == [0.5, 0.5]


def test_a_predictor_without_the_named_method_is_refused() -> None:
    with pytest.raises(InvalidModel):
        mt.model(Predictor(), method="transform")


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (double, "double"),
        (Called(), "Called"),
        (Called().method, "method"),
        (functools.partial(two_arguments, 1), "two_arguments"),
        (functools.partial(Called()), "Called"),
        (Predictor(), "Predictor"),
        (len, "len"),
    ],
)
def test_a_model_is_named_after_its_function_or_class(target: Any, name: str) -> None:
    assert mt.model(target).name == name


@pytest.mark.parametrize("target", [lambda x: x, functools.partial(lambda x, y: x, 1)])
def test_a_lambda_without_a_name_is_refused_with_the_remedy(target: Any) -> None:
    with pytest.raises(
        InvalidModel, match=r"a lambda has no name: give one with name='…', to mt\.model"
    ):
        mt.model(target)


increment = lambda x: x + 1  # noqa: E731 - a lambda at the top of a module
increment_by = functools.partial(lambda y, x: x + y, 1)


@pytest.mark.parametrize("name", ["increment", "increment_by"])
def test_a_lambda_in_a_module_is_named_after_its_variable_or_as_it_is_told(name: str) -> None:
    path = f"{__name__}:{name}"

    assert mt.model(path).name == name
    assert mt.model(path, name="other").name == "other"
    assert mt.model(path, name="other").describe().import_path == path
    assert Invoker(load(path)).one(Event(1)).output == "2"


@pytest.mark.parametrize("target", [lambda x: x + 1, functools.partial(lambda y, x: x + y, 1)])
def test_a_lambda_takes_the_name_of_its_subscription(target: Any) -> None:
    with mt.connect("memory://") as bus:
        sub = bus.subscribe("numbers", target, name="increment", version="1.0.0")
        other = bus.subscribe("numbers", double, name="named")

        assert (sub.name, sub.selector) == ("increment", "increment:1.0.0")
        assert other.selector.startswith("double:")
        assert bus.register(target, name="registered").name == "registered"


@pytest.mark.parametrize(
    "hand_over",
    [
        pytest.param(lambda bus: bus.subscribe("t", None), id="subscribe"),
        pytest.param(lambda bus: bus.subscribe("t", model=None), id="subscribe by keyword"),
        pytest.param(
            lambda bus: bus.subscribe("t", None, name="s", version="1.0.0"),
            id="subscribe with a name",
        ),
        pytest.param(lambda bus: bus.subscribe("t")(None), id="the decorator of subscribe"),
        pytest.param(lambda bus: bus.register(None), id="register"),
        pytest.param(lambda bus: bus.register(None, name="m"), id="register with a name"),
        pytest.param(lambda bus: mt.model(None), id="model"),
        pytest.param(lambda bus: mt.model(None, name="m"), id="model with a name"),
        pytest.param(lambda bus: mt.model("m")(None), id="the decorator of model"),
        pytest.param(lambda bus: mt.model(name="m")(None), id="the decorator with a keyword"),
    ],
)
def test_a_model_that_is_none_is_an_error_that_says_why(
    hand_over: Callable[[mt.EventBus], Any],
) -> None:
    with mt.connect("memory://") as bus:
        with pytest.raises(
            InvalidModel,
            match="the model is None: did the function that makes it forget its return",
        ):
            hand_over(bus)
        assert bus.subscriptions().empty


@pytest.mark.parametrize("target", [lambda x: x + 1, functools.partial(lambda y, x: x + y, 1)])
def test_a_lambda_with_a_name_is_a_model_like_any_other(target: Any) -> None:
    assert mt.model(target, name="increment").name == "increment"
    assert Invoker(mt.model("increment")(target)).one(Event(1)).output == "2"


@pytest.mark.parametrize("name", ["", "a b", "a:1", "a@b", "-a", "é", "x" * 81, "a\n", 5])
def test_a_name_that_a_selector_could_not_hold_is_refused(name: Any) -> None:
    with pytest.raises(InvalidName):
        Model(double, name)


def test_the_decorator_keeps_the_function_callable() -> None:
    assert isinstance(halve, Model)
    assert halve(3) == 1.5
    assert (halve.name, halve.version) == ("halver", "1.2.0")


def test_the_decorator_may_be_left_without_arguments() -> None:
    assert mt.model(double).name == "double"
    assert mt.model()(double).name == "double"
    assert mt.model(name="other")(double).name == "other"


def test_a_model_that_is_described_again_keeps_what_is_not_given() -> None:
    assert mt.model(halve, version="2.0.0") == dataclasses.replace(halve, version="2.0.0")


@pytest.mark.parametrize("version", ["1.0", "v1", 1.0, "0.0.0+mine", ""])
def test_a_wrong_version_is_refused(version: Any) -> None:
    with pytest.raises(InvalidModel):
        mt.model(double, version=version)


def test_the_repr_says_which_version() -> None:
    assert repr(halve) == "Model('halver:1.2.0')"
    assert repr(mt.model(double, batch=True)) == "Model('double:build', batch=True)"


# -- does it want the envelope? --------------------------------------------------------------------


def plain(x: dict[str, Any]) -> None: ...
def untyped(x): ...  # type: ignore[no-untyped-def]
def event(x: Event) -> None: ...
def quoted(x: "Event") -> None: ...
def prefixed(x: "mt.Event") -> None: ...
def annotated(x: Annotated[Event, "the page"]) -> None: ...
def events_list(x: list[Event]) -> None: ...
def events_quoted_list(x: "list[mt.Event]") -> None: ...
def events_typing_list(x: List[Event]) -> None: ...  # noqa: UP006
def events_sequence(x: Sequence[Event]) -> None: ...
def second_is_event(x: Any, y: Event | None = None) -> None: ...
def event_or_none(x: Event | None) -> None: ...
def event_or_none_quoted(x: "Optional[Event]" = None) -> None: ...  # noqa: UP045
def dicts(x: list[dict[str, Any]]) -> None: ...
def unknown_elsewhere(x: "Event") -> "NotDefinedAnywhere": ...  # type: ignore[name-defined]  # noqa: F821
def unknown_elsewhere_in_batch(x: "list[Event]") -> "NotDefinedAnywhere": ...  # type: ignore[name-defined]  # noqa: F821
def unknown_itself(x: "NotDefinedAnywhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821
def configured(threshold: float, x: Event) -> None: ...


POSTPONED = (
    "from __future__ import annotations\nimport mltrigger as mt\nfrom mltrigger import Event\n"
)
postponed = cell(POSTPONED + "def f(x: Event) -> NotDefinedAnywhere: ...")
postponed_batch = cell(POSTPONED + "def f(x: list[mt.Event]) -> NotDefinedAnywhere: ...")


@functools.wraps(event)
def wrapped(*args: Any, **kwargs: Any) -> None:
    return event(*args, **kwargs)


class CalledWithEvent:
    def __call__(self, x: Event) -> str:
        return x.type

    def method(self, x: Event) -> None: ...


@pytest.mark.parametrize(
    ("target", "wants"),
    [
        (plain, False),
        (untyped, False),
        (event, True),
        (quoted, True),
        (prefixed, True),
        (annotated, True),
        (events_list, True),
        (events_quoted_list, True),
        (events_typing_list, True),
        (events_sequence, True),
        (second_is_event, False),
        (event_or_none, True),
        (event_or_none_quoted, True),
        (dicts, False),
        (unknown_elsewhere, True),
        (unknown_elsewhere_in_batch, True),
        (unknown_itself, False),
        (postponed, True),
        (postponed_batch, True),
        (functools.partial(configured, 0.5), True),
        (functools.partial(event), True),
        (wrapped, True),
        (CalledWithEvent(), True),
        (CalledWithEvent().method, True),
        (functools.partial(CalledWithEvent()), True),
        (Called(), False),
        (Predictor(), False),
        (len, False),
        (str.upper, False),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_an_argument_annotated_as_event_gets_the_envelope(target: Any, wants: bool) -> None:
    assert mt.model(target, name="tried").wants_event is wants


def test_the_envelope_is_what_the_model_gets_and_else_the_data() -> None:
    def types(x: Event) -> str:
        return x.type

    def types_of_all(x: list[Event]) -> list[str]:
        return [each.type for each in x]

    assert invoker(types).one(Event(1, type="a")).output == '"a"'
    assert [
        r.output
        for r in invoker(types_of_all, batch=True).many([Event(1, type="a"), Event(1, type="b")])
    ] == ['"a"', '"b"']
    assert invoker(double).one(Event(2, type="a")).output == "4"


# -- where another process finds it ----------------------------------------------------------------


def test_a_function_of_a_module_is_found_again_by_its_path() -> None:
    assert import_path(double) == "test_models:double"
    assert load("test_models:double").target is double


def test_a_decorated_function_of_a_module_keeps_its_version() -> None:
    assert import_path(halve.target) == "test_models:halve"
    assert load("test_models:halve") == halve


def test_what_only_lives_here_has_no_path() -> None:
    def local(x: Any) -> Any: ...

    hidden = functools.wraps(double)(lambda x: x)
    for target in (
        local,
        lambda x: x,
        Called(),
        Called().method,
        functools.partial(double),
        Predictor(),
        hidden,
    ):
        assert import_path(target) is None


def test_what_was_defined_in_a_notebook_has_no_path() -> None:
    assert import_path(cell("def f(x): return x")) is None


@pytest.mark.parametrize("path", ["no_such_module:f", "test_models:no_such_function"])
def test_a_path_that_leads_nowhere_is_an_import_error(path: str) -> None:
    with pytest.raises((ImportError, AttributeError)):
        load(path)


def test_what_the_registry_keeps_describes_the_model() -> None:
    described = mt.model(double).describe()

    assert described.version == f"0.0.0+{described.digest}"
    assert described.is_build
    assert re.fullmatch("[0-9a-f]{12}", described.digest)
    assert (described.name, described.kind, described.import_path) == (
        "double",
        "callable",
        "test_models:double",
    )
    assert described.description == "Twice as much."
    assert halve.describe().version == "1.2.0"


# -- which code it is ------------------------------------------------------------------------------


def digest(source: str) -> str:
    target = cell(source)
    return digest_of(target.target if isinstance(target, Model) else target)


BODY = "def f(x, k=1):\n    for y in x:\n        k += y\n    return k\n"


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(BODY, id="again"),
        pytest.param("\n\n" + BODY + "\n\n", id="blank lines around"),
        pytest.param(
            "def f(x, k=1):  # adds\n    # one by one\n    for y in x:\n\n        k += y  # here\n "
            "   return k\n",
            id="comments",
        ),
        pytest.param("def f( x,k = 1 ):\n  for y in x:\n    k+=y\n  return k", id="spaces"),
        pytest.param(
            "def f(\n    x, k=1\n):\n    for y in x:\n        k += y\n    return (\n        k\n  "
            "  )\n".replace("(\n        k\n    )", "k"),
            id="line breaks",
        ),
        pytest.param("@mt.model('summed')\n" + BODY, id="decorator"),
        pytest.param("@mt.model('summed', version='1.0.0')\n" + BODY, id="version"),
        pytest.param("@mt.model('summed', version='2.0.0')\n" + BODY, id="another version"),
        pytest.param(
            "@mt.model(\n    'summed',\n    version='2.0.0',\n)\n" + BODY, id="decorator over lines"
        ),
        pytest.param(
            "if True:\n" + "".join(f"    {line}\n" for line in BODY.splitlines()), id="indented"
        ),
        pytest.param("other = 1\n" + BODY + "f2 = f\n", id="neighbours"),
    ],
)
def test_the_same_code_has_the_same_digest(source: str) -> None:
    assert digest(source) == digest(BODY)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(BODY.replace("+=", "-="), id="operator"),
        pytest.param(BODY.replace("k=1", "k=2"), id="default"),
        pytest.param(BODY.replace("return k", "return y"), id="name"),
        pytest.param(BODY.replace("return k", "return k, 'done'"), id="constant"),
        pytest.param(
            BODY.replace("    return k", "        return k"), id="return moved into the loop"
        ),
        pytest.param(BODY.replace("x, k=1", "x, *, k=1"), id="signature"),
    ],
)
def test_other_code_has_another_digest(source: str) -> None:
    assert digest(source) != digest(BODY)


def test_a_class_in_a_notebook_changes_its_digest_with_its_code() -> None:
    source = "class Reader:\n    def __call__(self, x):\n        return x + 1\nf = Reader()\n"

    assert digest(source) == digest(source)
    assert digest(source) != digest(source.replace("+ 1", "+ 2"))


@pytest.mark.parametrize(
    "decorator",
    [
        pytest.param("@functools.cache\n", id="cache"),
        pytest.param("@functools.lru_cache(maxsize=9)\n", id="lru_cache"),
        pytest.param("@plain\n", id="a decorator without functools.wraps"),
        pytest.param("@kept\n", id="a decorator with functools.wraps"),
    ],
)
def test_code_behind_a_decorator_counts(decorator: str) -> None:
    source = (
        "def plain(f):\n    return lambda x: f(x)\ndef kept(f):\n    @functools.wraps(f)\n    def"
        f" inner(x):\n        return f(x)\n    return inner\n{decorator}def f(x):\n    return x"
        " + 1\n"
    )
    assert digest(source) == digest(source)
    assert digest(source) != digest(source.replace("x + 1", "x + 2"))


def typed(source: str) -> Any:
    """Return ``f`` as a prompt defines it: without its source."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(source, namespace)
    return namespace["f"]


def test_without_source_the_bytecode_decides() -> None:
    assert digest_of(typed(BODY)) == digest_of(typed("# a comment\n" + BODY))
    assert digest_of(typed(BODY)) != digest_of(typed(BODY.replace("+=", "-=")))
    assert digest_of(typed("def f(x): return x + 1")) != digest_of(typed("def f(x): return x + 2"))
    assert digest_of(typed("def f(x): return [y + 1 for y in x]")) != digest_of(
        typed("def f(x): return [y + 2 for y in x]")
    )


@pytest.mark.parametrize(
    "change", [("k=1", "k=2"), ("x, k=1", "x, *, k=1"), ("x, k=1", "x, *, k=2")]
)
def test_without_source_the_defaults_count_as_well(change: tuple[str, str]) -> None:
    assert digest_of(typed(BODY)) != digest_of(typed(BODY.replace(*change)))


def test_bound_arguments_count() -> None:
    made = [
        digest_of(functools.partial(two_arguments, *args, **kwargs))
        for args, kwargs in [((1,), {}), ((2,), {}), ((), {"b": 1})]
    ]

    assert len(set(made)) == 3
    assert made[0] == digest_of(functools.partial(two_arguments, 1))


def test_the_state_of_an_object_counts() -> None:
    assert digest_of(Predictor(1)) == digest_of(Predictor(1))
    assert digest_of(Predictor(1)) != digest_of(Predictor(2))
    assert digest_of(Predictor(1).predict) != digest_of(Predictor(2).predict)
    assert digest_of(Predictor(1).predict) != digest_of(Predictor(1).score)


def test_an_object_that_cannot_be_pickled_has_the_digest_of_its_code() -> None:
    first, second = Predictor(), Predictor()
    first.seen, second.seen = [threading.Lock()], [threading.Lock()]

    assert digest_of(first) == digest_of(second) != digest_of(Called())


def test_a_state_too_deep_to_look_at_does_not_stand_in_the_way() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    predictor = Predictor()
    predictor.seen = deep

    assert digest_of(predictor) == digest_of(predictor) != digest_of(Called())


def test_a_state_that_contains_itself_has_a_digest() -> None:
    predictor = Predictor()
    predictor.seen = [predictor]

    assert digest_of(predictor) == digest_of(predictor) != digest_of(Predictor())


def test_builtins_have_digests() -> None:
    assert digest_of(len) == digest_of(len) != digest_of(abs)


def fitted(texts: Sequence[str] = ("an invoice", "a letter", "invoice no 2", "dear letter")) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    return make_pipeline(TfidfVectorizer(), LogisticRegression(random_state=0)).fit(
        list(texts), [0, 1, 0, 1]
    )


def test_a_classifier_that_is_fitted_again_with_the_same_data_is_the_same_version() -> None:
    assert digest_of(fitted()) == digest_of(fitted())


def test_a_classifier_that_is_fitted_with_other_data_is_another_version() -> None:
    assert digest_of(fitted()) != digest_of(
        fitted(["an order", "a letter", "order no 2", "dear letter"])
    )


def searched() -> Any:
    from sklearn.model_selection import GridSearchCV
    from sklearn.naive_bayes import GaussianNB

    return GridSearchCV(GaussianNB(), {"var_smoothing": [1e-9, 1e-8]}, cv=2)


def neighbours() -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(2)


def forest() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(3, random_state=0)


@pytest.mark.parametrize("make", [searched, neighbours, forest])
def test_neither_fitting_again_nor_answering_makes_another_version(make: Callable[[], Any]) -> None:
    x, y = np.random.default_rng(0).random((40, 3)), np.arange(40) % 2
    first, second = make().fit(x, y), make().fit(x, y)
    before = digest_of(first)
    first.predict(x)

    assert digest_of(second) == before, "fitted again with the same data"
    assert digest_of(first) == before, (
        "after an answer: a cell that runs again would meet a conflict"
    )


MODULE = """
class Reader:
    def __init__(self, added):
        self.added = added

    def predict(self, rows):
        return rows

class Words(Reader):
    def __init__(self):
        self.kept = {"invoice", "letter", "receipt", "contract", "order"}

def double(x):
    return x * 2

def power(x, by):
    return x ** by
"""
PROCESS = """
import functools, json, sys
sys.path[:0] = [{root!r}, {modules!r}]
{preload}
import handed_over as here
from mltrigger.versions.code.captured import digest_of

typed = {{}}
exec('def f(x): return x in {{"a", "b", "c", "d"}}', typed)
found = {{
    "function": here.double,
    "object": here.Reader(3),
    "partial": functools.partial(here.power, by={{"a": 1.5}}),
    "without source": typed["f"],
    "object with a set": here.Words(),
}}
print(json.dumps({{kind: digest_of(target) for kind, target in found.items()}}))
"""
KINDS = ["function", "object", "partial", "without source", "object with a set"]


@pytest.fixture(scope="module")
def digests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What three processes find: two that hash differently, and one that has joblib loaded."""
    modules = tmp_path_factory.mktemp("modules")
    (modules / "handed_over.py").write_text(MODULE)
    started = {}
    for name, seed, preload in [
        ("one", "1", ""),
        ("another", "2", ""),
        ("with joblib", "1", "import joblib"),
    ]:
        program = PROCESS.format(root=str(ROOT), modules=str(modules), preload=preload)
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        started[name] = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
        )
    return {name: json.loads(process.communicate()[0]) for name, process in started.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_process_finds_the_same_digest(digests: dict[str, dict[str, str]], kind: str) -> None:
    assert digests["one"][kind] == digests["another"][kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_library_that_happens_to_be_loaded_changes_no_digest(
    digests: dict[str, dict[str, str]], kind: str
) -> None:
    assert digests["one"][kind] == digests["with joblib"][kind]


def test_a_kernel_that_starts_anew_and_fits_again_finds_the_same_version() -> None:
    program = f"import sys; sys.path[:0] = [{str(ROOT)!r}]\n{inspect.getsource(fitted)}\n".replace(
        "Sequence[str]", "object"
    )
    program += "from mltrigger.versions.code.captured import digest_of\nprint(digest_of(fitted()))"
    found = subprocess.run(
        [sys.executable, "-c", f"from typing import Any\n{program}"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert found.stdout.strip() == digest_of(fitted())


# -- one event in, one result out ------------------------------------------------------------------


def raising(error: BaseException) -> Callable[[Any], Any]:
    def raises(x: Any) -> Any:
        raise error

    return raises


def returning(value: Any) -> Callable[[Any], Any]:
    def returns(x: Any) -> Any:
        return value

    return returns


class Silly(BaseException):
    """Not even an Exception. (Nor a SystemExit, which would end pytest when it prints a failure.)"""


def test_an_answer_is_kept_as_json_and_as_itself() -> None:
    answer = {"text": "a", "score": np.float32(0.5)}
    result = invoker(returning(answer)).one(Event(1))

    assert (result.ok, result.reason) == (True, None)
    assert json.loads(result.output or "") == {"text": "a", "score": 0.5}


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        b"\x00",
        (1, 2),
        {1, 2},
        np.array([1.0]),
        pd.DataFrame({"a": [1]}),
        timedelta(1),
        None,
    ],
)
def test_an_answer_that_json_does_not_know_is_an_answer(value: Any) -> None:
    """BI-099, BI-102."""
    result = invoker(returning(value)).one(Event(1))

    assert result.ok
    assert "NaN" not in json.dumps(
        json.loads(result.output or ""), allow_nan=False
    ) or "$numberDouble" in (result.output or "")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad page"),
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
        asyncio.CancelledError(),
        Silly("no"),
        RecursionError("deep"),
        MemoryError(),
        StopIteration(5),
        ExceptionGroup("many", [ValueError("a"), TypeError("b")]),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("batch", [False, True])
def test_whatever_a_model_raises_is_a_failed_attempt(error: BaseException, batch: bool) -> None:
    """BI-090, and a SystemExit is not the end of the listener."""
    tried = invoker(raising(error), batch=batch)
    result = tried.many([Event(1)])[0] if batch else tried.one(Event(1))

    assert (result.ok, result.output) == (False, None)
    assert (result.reason, result.error_type, result.permanent) == (
        "model_error",
        type(error).__qualname__,
        False,
    )
    assert result.error == str(error)
    assert "in raises" in (result.traceback or "")


class BadText(Exception):
    def __str__(self) -> str:
        raise Silly("str")

    __repr__ = __str__


class BadNotes(Exception):
    @property
    def __notes__(self) -> list[str]:
        raise RuntimeError("notes")


class BadCause(Exception):
    @property
    def __cause__(self) -> BaseException:  # type: ignore[override]
        raise RuntimeError("cause")


@pytest.mark.parametrize(
    "error", [BadText(), BadNotes("a"), BadCause("a")], ids=lambda error: type(error).__name__
)
def test_an_exception_that_defends_itself_is_still_a_failed_attempt(error: Exception) -> None:
    result, escaped = None, ""
    try:
        result = invoker(raising(error)).one(Event(1))
    except BaseException as unexpected:  # not left to pytest, which would try to print it
        escaped = type(unexpected).__name__

    assert escaped == ""
    assert result is not None
    assert (result.ok, result.error_type) == (False, type(error).__qualname__)
    assert isinstance(result.error, str)


def test_an_exception_that_cannot_be_printed_is_called_so() -> None:
    assert invoker(raising(BadText())).one(Event(1)).error == "<unprintable BadText>"


@pytest.mark.parametrize("size", [100_000, 10_000_000])
def test_message_and_traceback_are_bounded(size: int) -> None:
    result = invoker(raising(ValueError("x" * size))).one(Event(1))

    for text in (result.error, result.traceback):
        assert text is not None
        assert len(text) < invoke.MAX_TEXT + 100
        assert text.endswith("more characters)")


def chained(x: Any) -> Any:
    error: BaseException = ValueError("first")
    for number in range(500):
        try:
            raise RuntimeError(f"number {number}") from error
        except RuntimeError as next_:
            error = next_
    raise error


def recursive(x: Any) -> Any:
    return recursive(x)


@pytest.mark.parametrize("model", [chained, recursive])
def test_the_traceback_of_a_long_story_is_bounded(model: Callable[[Any], Any]) -> None:
    result = invoker(model).one(Event(1))

    assert not result.ok
    assert len(result.traceback or "") < invoke.MAX_TEXT + 100


def plainly(x: Any) -> Any:
    raise ValueError("plain")


def from_another(x: Any) -> Any:
    try:
        plainly(x)
    except ValueError as error:
        raise RuntimeError("later") from error


def while_handling(x: Any) -> Any:
    try:
        plainly(x)
    except ValueError:
        raise RuntimeError("meanwhile")  # noqa: B904


def in_a_group(x: Any) -> Any:
    try:
        plainly(x)
    except ValueError as error:
        raise ExceptionGroup("several", [error]) from None


def in_text(x: Any) -> Any:
    compile("x = = 1", str(ROOT / "generated.py"), "exec")


@pytest.mark.parametrize("model", [plainly, from_another, while_handling, in_a_group, in_text])
def test_a_traceback_shows_the_model_and_no_absolute_path(model: Callable[[Any], Any]) -> None:
    traceback = invoker(model).one(Event(1)).traceback or ""

    assert f"in {model.__name__}" in traceback
    assert "invoke.py" not in traceback
    assert str(ROOT) not in traceback


def test_retry_is_a_signal_with_a_delay() -> None:
    result = invoker(raising(mt.Retry(delay_s=30, reason="warming up"))).one(Event(1))

    assert (result.reason, result.delay_s, result.permanent, result.error) == (
        "retry",
        30,
        False,
        "warming up",
    )
    assert invoker(raising(mt.Retry())).one(Event(1)).delay_s is None


@pytest.mark.parametrize(
    "delay_s",
    ["warming up", timedelta(seconds=5), math.inf, math.nan, -1, 10**400, [5]],
    ids=["text", "timedelta", "inf", "NaN", "negative", "10**400", "list"],
)
def test_a_delay_that_is_no_delay_never_reaches_the_broker(delay_s: Any) -> None:
    def retries(x: Any) -> Any:
        raise mt.Retry(delay_s)

    result = invoker(retries).one(Event(1))

    assert not result.ok
    assert result.delay_s is None or (
        isinstance(result.delay_s, (int, float)) and 0 <= result.delay_s < 1e9
    )


def test_reject_is_a_signal_with_a_reason() -> None:
    result = invoker(raising(mt.Reject("not a page"))).one(Event(1))

    assert (result.reason, result.permanent, result.error) == ("rejected", True, "not a page")


@pytest.mark.parametrize(
    "value",
    [print, object(), int, 1j, {"deep": [object()]}],
    ids=["function", "object", "class", "complex", "deep"],
)
def test_an_answer_that_has_no_json_form_is_lost_and_no_success(value: Any) -> None:
    """BI-100: the model has run, and trying again cannot help."""
    for result in (
        invoker(returning(value)).one(Event(1)),
        invoker(returning([value]), batch=True).many([Event(1)])[0],
    ):
        assert is_lost(result)
        assert "the model ran, and its answer cannot be kept: $" in (result.error or "")
        assert "0x" not in (result.error or "")


def is_lost(result: Result) -> bool:
    return (result.ok, result.permanent, result.reason, result.output) == (
        False,
        True,
        "result_not_serialisable",
        None,
    )


def degraded(result: Result) -> tuple[bool, str | None]:
    return result.ok and result.degraded, result.reason


def test_an_answer_that_contains_itself_has_no_json_form() -> None:
    """BI-103."""
    value: dict[str, Any] = {}
    value["self"] = value

    assert is_lost(invoker(returning(value)).one(Event(1)))


class BadAnswer:
    def __repr__(self) -> str:
        raise Silly("repr")

    __str__ = __repr__

    @property
    def tolist(self) -> Any:
        raise Silly("tolist")

    @property
    def model_dump(self) -> Any:
        raise RuntimeError("model_dump")

    def __len__(self) -> int:
        raise Silly("len")

    def __iter__(self) -> Iterator[Any]:
        raise Silly("iter")


def test_an_answer_that_defends_itself_has_no_json_form() -> None:
    """BI-101."""
    assert is_lost(invoker(returning(BadAnswer())).one(Event(1)))
    assert is_lost(invoker(returning([BadAnswer()]), batch=True).many([Event(1)])[0])
    assert not invoker(returning(BadAnswer()), batch=True).many([Event(1)])[0].ok


def test_an_answer_above_the_limit_is_kept_shortened_with_its_size_and_hash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """BI-104."""
    monkeypatch.setattr(invoke, "MAX_OUTPUT_BYTES", 100)

    assert invoker(returning("x" * 98)).one(Event(1)).ok
    result = invoker(returning("x" * 99)).one(Event(1))
    assert degraded(result) == (True, "result_too_large")
    assert "101 bytes" in (result.error or "")
    raw = b'"' + b"x" * 99 + b'"'
    assert json.loads(result.output or "") == {
        "truncated": raw.decode(),
        "bytes": 101,
        "sha256": hashlib.sha256(raw).hexdigest(),
    }


def test_the_limit_of_an_answer_counts_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invoke, "MAX_OUTPUT_BYTES", 100)

    assert degraded(invoker(returning("é" * 60)).one(Event(1))) == (True, "result_too_large")


def test_a_coroutine_as_an_answer_leaves_no_warning() -> None:
    async def page() -> None: ...

    def answers(x: Any) -> Any:
        return page()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_lost(invoker(answers).one(Event(1)))


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (lambda: (n * n for n in range(4)), [0, 1, 4, 9]),
        (lambda: {"scores": map(float, [1, 2])}, {"scores": [1.0, 2.0]}),
        (lambda: zip("ab", iter([1, 2]), strict=True), [["a", 1], ["b", 2]]),
        (lambda: {"a": 1}.items(), [["a", 1]]),
        (lambda: range(3), [0, 1, 2]),
        (lambda: collections.deque([1, 2]), [1, 2]),
        (lambda: array.array("d", [0.5]), [0.5]),
        (lambda: scipy.sparse.csr_array([[0, 2.5]]), [[0.0, 2.5]]),
        (lambda: {"row": scipy.sparse.csr_matrix([[1, 0]])}, {"row": [[1, 0]]}),
        (lambda: [Car("Volvo", 1987)], [{"make": "Volvo", "year": 1987}]),
        (
            lambda: pd.DataFrame({"make": ["Volvo"], "year": ["1987"]}).iloc[0],
            {"make": "Volvo", "year": "1987"},
        ),
        (
            lambda: np.array([("Volvo", 1987)], dtype=[("make", "U9"), ("year", "i4")])[0],
            {"make": "Volvo", "year": 1987},
        ),
    ],
)
def test_an_answer_that_says_what_is_in_it_is_kept_as_values(
    answer: Callable[[], Any], kept: Any
) -> None:
    result = invoker(lambda _: answer()).one(Event(1))

    assert result.error is None
    assert json.loads(result.output or "") == kept


@pytest.mark.parametrize(
    "endless",
    [
        lambda: itertools.repeat("x" * 1_000_000),
        lambda: {"pages": (bytes(1_000_000) for _ in itertools.count())},
        lambda: range(10**12),
        lambda: scipy.sparse.csr_array((10**6, 10**6)),
    ],
)
def test_an_answer_without_an_end_is_too_large(endless: Callable[[], Any]) -> None:
    result = invoker(lambda _: endless()).one(Event(1))

    assert (result.ok, result.permanent, result.reason, result.output) == (
        False,
        True,
        "result_too_large",
        None,
    )


def test_what_a_generator_raises_is_an_error_of_the_model() -> None:
    def answers(_: Any) -> Any:
        return (1 / n for n in (1, 0))

    result = invoker(answers).one(Event(1))

    assert (result.reason, result.error_type, result.permanent) == (
        "model_error",
        "ZeroDivisionError",
        False,
    )


def test_an_answer_whose_keys_become_the_same_text_is_no_success() -> None:
    result = invoker(returning({"years": [{2026: "plan", "2026": "actual"}]})).one(Event(1))

    assert is_lost(result)
    assert "$.years[0]: two keys that become the same text '2026'" in (result.error or "")


# -- many events -----------------------------------------------------------------------------------


def batch_of(*data: Any) -> list[Event]:
    return [Event(d) for d in data]


def outputs(results: Sequence[Result]) -> list[Any]:
    return [json.loads(r.output) if r.output is not None else r.reason for r in results]


def squares(xs: list[int]) -> list[int]:
    return [x * x for x in xs]


@pytest.mark.parametrize(
    "shape",
    [
        list,
        tuple,
        np.array,
        pd.Series,
        pd.Index,
        lambda xs: pd.Series(xs, index=range(len(xs), 0, -1)),
        lambda xs: {x: x for x in xs}.values(),
        lambda xs: np.array(xs, dtype=np.float32),
    ],
)
def test_a_batch_model_may_answer_with_any_sequence(shape: Callable[[Any], Any]) -> None:
    def model(xs: list[int]) -> Any:
        return shape(squares(xs))

    assert outputs(invoker(model, batch=True).many(batch_of(3, 1, 2))) == [9, 1, 4]


def test_a_frame_gives_its_rows() -> None:
    def model(xs: list[int]) -> Any:
        return pd.DataFrame({"n": xs, "label": [str(x) for x in xs]}, index=range(5, 5 + len(xs)))

    assert outputs(invoker(model, batch=True).many(batch_of(3, 1))) == [
        {"n": 3, "label": "3"},
        {"n": 1, "label": "1"},
    ]


def test_a_frame_with_names_of_its_rows_keeps_them() -> None:
    def model(xs: list[int]) -> Any:
        return pd.DataFrame({"n": xs}, index=pd.Index([f"#{x}" for x in xs], name="id"))

    assert outputs(invoker(model, batch=True).many(batch_of(3, 1))) == [
        {"id": "#3", "n": 3},
        {"id": "#1", "n": 1},
    ]


def test_a_frame_whose_index_has_the_name_of_a_column_has_no_json_form() -> None:
    result = invoker(lambda _: pd.DataFrame({"n": [1]}, index=pd.Index([2], name="n"))).one(
        Event(1)
    )

    assert is_lost(result)
    assert result.error is not None
    assert "'n' names a column and the index; rename one of them" in result.error


def test_an_array_of_records_gives_objects() -> None:
    def model(xs: list[int]) -> Any:
        return np.array([(x, str(x)) for x in xs], dtype=[("n", int), ("label", "U3")])

    assert outputs(invoker(model, batch=True).many(batch_of(3, 1))) == [
        {"n": 3, "label": "3"},
        {"n": 1, "label": "1"},
    ]


def test_a_sparse_matrix_gives_its_rows() -> None:
    assert outputs(
        invoker(lambda xs: scipy.sparse.eye_array(len(xs), format="csc"), batch=True).many(
            batch_of(1, 2)
        )
    ) == [[1.0, 0.0], [0.0, 1.0]]


def test_a_matrix_gives_its_first_axis() -> None:
    assert outputs(invoker(lambda xs: np.eye(len(xs)), batch=True).many(batch_of(1, 2))) == [
        [1.0, 0.0],
        [0.0, 1.0],
    ]


def test_one_bad_event_fails_alone() -> None:
    def model(xs: list[int]) -> list[int]:
        if 13 in xs:
            raise ValueError("unlucky")
        return squares(xs)

    results = invoker(model, batch=True).many(batch_of(*range(20)))

    assert [i for i, r in enumerate(results) if not r.ok] == [13]
    assert outputs(results)[:13] == [x * x for x in range(13)]
    assert results[13].error == "unlucky"


def test_a_whole_batch_that_fails_fails_event_by_event() -> None:
    results = invoker(raising(SystemExit(1)), batch=True).many(batch_of(1, 2, 3))

    assert [r.error_type for r in results] == ["SystemExit"] * 3


def renamed(records: list[Any]) -> list[int]:
    for record in records:
        record["chars"] = record.pop("text")
    return [len(record["chars"]) for record in records]


def emptied(records: list[Any]) -> list[int]:
    sizes = [record["text"] for record in records]
    records.clear()
    return [len(text) for text in sizes]


async def renamed_later(records: list[Any]) -> list[int]:
    return renamed(records)


def renamed_in_events(events: list[mt.Event]) -> list[int]:
    return renamed([event.data for event in events])


@pytest.mark.parametrize("isolation", ["thread", "process"])
@pytest.mark.parametrize("model", [renamed, emptied, renamed_later, renamed_in_events])
def test_events_beside_a_bad_one_are_called_again_as_they_were_published(
    model: Any, isolation: Any
) -> None:
    with mt.connect("memory://") as bus:
        bus.subscribe(
            "texts",
            mt.model(model, name="m", batch=True),
            batch_size=8,
            max_attempts=1,
            isolation=isolation,
        )
        found = bus.fire(
            "texts", [{"text": text} for text in ("a", "bb", None, "dddd", "e")], progress=False
        ).invocations()

    assert sorted(zip(found["outcome"], found["output"].fillna("").astype(str), strict=True)) == [
        ("dead", ""),
        *[("succeeded", size) for size in ("1", "1", "2", "4")],
    ]


class Longer:
    def predict(self, rows: list[list[int]]) -> list[list[int]]:
        for row in rows:
            row.append(9)
        if [3, 9] in rows:
            raise ValueError("three")
        return rows


def test_a_predictor_that_changes_what_it_gets_answers_the_same_beside_a_bad_event() -> None:
    with mt.connect("memory://") as bus:
        bus.subscribe("rows", mt.model(Longer(), name="m"), batch_size=8, max_attempts=1)
        found = bus.fire("rows", [[n] for n in range(5)], progress=False).invocations()

    assert sorted(found["output"].dropna().astype(str)) == ["[0,9]", "[1,9]", "[2,9]", "[4,9]"]


def test_an_exception_in_the_place_of_an_answer_fails_that_event() -> None:
    def model(xs: list[int]) -> list[Any]:
        return [mt.Reject("odd") if x % 2 else x for x in xs]

    results = invoker(model, batch=True).many(batch_of(2, 3, 4))

    assert outputs(results) == [2, "rejected", 4]
    assert results[1].permanent


def test_one_answer_that_has_no_json_form_is_lost_alone() -> None:
    results = invoker(lambda xs: [xs[0], print, xs[2]], batch=True).many(batch_of(1, 2, 3))

    assert [is_lost(result) for result in results] == [False, True, False]


class LyingList(list[Any]):
    def __len__(self) -> int:
        return 2


NOT_TWO = [
    None,
    5,
    "ab",
    b"ab",
    {"a": 1, "b": 2},
    {1, 2},
    frozenset("ab"),
    (x for x in "ab"),
    itertools.count(),
    [1],
    [1, 2, 3],
    [],
    np.float64(1),
]


@pytest.mark.parametrize(
    "answer", [*NOT_TWO, LyingList("abc")], ids=lambda answer: type(answer).__name__
)
def test_an_answer_that_is_not_one_an_event_fails_the_batch_for_good(answer: Any) -> None:
    results = invoker(returning(answer), batch=True).many(batch_of(1, 2))

    assert [outcome(r) for r in results] == [("bad_batch_result", True)] * 2
    assert all(r.error_type == "ValueError" for r in results)


class Scored(NamedTuple):
    label: Any
    score: Any


@pytest.mark.parametrize("several", [lambda *each: each, Scored])
@pytest.mark.parametrize("kind", [list, np.array, pd.Series])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_several_results_of_a_batch_are_never_taken_for_one_an_event(
    several: Any, kind: Any, count: int
) -> None:
    model = invoker(lambda xs: several(kind(xs), kind([0.5] * len(xs))), batch=True)

    results = model.many(batch_of(*range(count)))

    assert [outcome(r) for r in results] == [("bad_batch_result", True)] * count
    assert results[0].error is not None
    assert results[0].error.endswith("not a tuple of several results: list(zip(labels, scores))")


def test_the_error_of_a_short_answer_counts() -> None:
    result = invoker(returning([1]), batch=True).many(batch_of(1, 2))[0]

    assert (
        result.error
        == "a batch model returns one output an event: 2 events went in, 1 outputs came out"
    )


def test_a_batch_model_can_be_called_with_one_event() -> None:
    assert invoker(squares, batch=True).one(Event(3)).output == "9"


def test_an_empty_batch_has_no_results() -> None:
    assert invoker(squares, batch=True).many([]) == []


# -- predictors ------------------------------------------------------------------------------------


def test_a_predictor_gets_objects_as_one_frame() -> None:
    predictor = Predictor()
    results = Invoker(mt.model(predictor, columns=["a", "b"])).many(
        batch_of({"a": 1, "b": "x"}, {"b": "y", "a": 2, "c": 0})
    )

    assert outputs(results) == [3, 3]
    pd.testing.assert_frame_equal(predictor.seen[0], pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}))


def test_a_predictor_gets_anything_else_as_lists_of_a_kind() -> None:
    predictor = Predictor()
    invoker(predictor).many(batch_of([1, 2], [3, 4]))
    invoker(predictor).many(batch_of("a", [0.5, 1], "b", [1, 1], 2**70))

    assert predictor.seen == [[[1, 2], [3, 4]], ["a", "b"], [[0.5, 1]], [[1, 1]], [2**70]]


def test_a_predictor_is_called_with_one_event_as_with_a_batch_of_one() -> None:
    predictor = Predictor()

    assert invoker(predictor).one(Event("a")).output == "2"
    assert predictor.seen == [["a"]]


def test_a_fitted_pipeline_answers() -> None:
    assert outputs(invoker(fitted()).many(batch_of("invoice", "dear"))) == [0, 1]
