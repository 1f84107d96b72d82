"""Models and answers of other people's libraries: what goes in and comes out is what the library
itself would say.
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from slow import examples

import mltrigger as mt
from mltrigger import Event
from mltrigger.event import codec
from mltrigger.event.making import restored
from mltrigger.versions.running.invoke import Result
from mltrigger.versions.running.thread import Invoker

pytestmark = pytest.mark.xdist_group("frameworks")  # one process imports them


@pytest.fixture
def bus() -> Iterator[mt.EventBus]:
    with mt.connect("memory://") as bus:
        yield bus


def results(model: Any, *data: Any, **described: Any) -> list[Result]:
    """Return what becomes of events with *data* that come together."""
    return Invoker(mt.model(model, name="m", version="1.0.0", **described)).many(
        [Event(d) for d in data]
    )


def answered(model: Any, *data: Any, **described: Any) -> list[Any]:
    """Return each event's answer, or the reason why it has none."""
    return [
        json.loads(r.output) if r.output is not None else r.reason
        for r in results(model, *data, **described)
    ]


def single(answer: Callable[[], Any]) -> Any:
    """Return what is kept of the answer of a model."""
    return answered(lambda _: [answer()], 1, batch=True)[0]


# -- frames of other libraries ---------------------------------------------------------------------


@pytest.mark.needs("polars")
def test_a_polars_frame_is_fired_row_by_row(bus: mt.EventBus) -> None:
    import polars

    got: list[Any] = []
    bus.subscribe("cities", mt.model(got.append, name="keep", version="1.0.0"))
    frame = polars.DataFrame({"city": ["Lima", "Oslo"], "m": [161, 23]})
    bus.fire("cities", frame, progress=False)
    bus.publish("cities", frame)
    bus.wait(progress=False)

    assert got == [
        {"city": "Lima", "m": 161},
        {"city": "Oslo", "m": 23},
        [{"city": "Lima", "m": 161}, {"city": "Oslo", "m": 23}],
    ]


@pytest.mark.needs("polars")
def test_a_polars_frame_is_one_answer_a_row() -> None:
    import polars

    assert answered(lambda rows: polars.DataFrame({"n": rows}), 3, 1, batch=True) == [
        {"n": 3},
        {"n": 1},
    ]
    assert answered(lambda rows: polars.Series(rows), 3, 1, batch=True) == [3, 1]
    assert single(lambda: {"city": polars.Series(["Lima"])}) == {"city": ["Lima"]}


@pytest.mark.needs("pyarrow")
def test_an_arrow_table_is_rows_and_an_arrow_array_is_values() -> None:
    import pyarrow as pa

    table = pa.table({"city": ["Lima", "Oslo"], "m": [161, None]})
    rows = [{"city": "Lima", "m": 161}, {"city": "Oslo", "m": None}]

    assert answered(lambda _: table, 1, 2, batch=True) == rows
    assert answered(lambda _: table["m"], 1, 2, batch=True) == [161, None]
    assert single(lambda: table) == rows
    assert single(lambda: {"best": table["m"][0]}) == {"best": 161}


@pytest.mark.needs("torch")
def test_a_tensor_is_kept_as_numbers() -> None:
    import torch

    assert single(lambda: torch.tensor([[0.5, 1.0]], requires_grad=True)) == [[0.5, 1.0]]
    assert single(
        lambda: {"ids": torch.arange(2), "half": torch.tensor(0.5, dtype=torch.bfloat16)}
    ) == {"ids": [0, 1], "half": 0.5}
    assert single(lambda: torch.eye(2).to_sparse()) == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.needs("PIL")
def test_an_image_as_an_answer_is_dead_and_the_row_says_so(bus: mt.EventBus) -> None:
    from PIL import Image

    sub = bus.subscribe(
        "pages", mt.model(lambda _: Image.new("L", (2, 2)), name="draw", version="1.0.0")
    )
    bus.fire("pages", [1], progress=False)

    row = sub.invocations().iloc[-1]
    assert (row["outcome"], row["reason"], row["attempt"]) == ("dead", "result_not_serialisable", 1)
    assert (
        "the model ran, and its answer cannot be kept: $: a value of type 'Image' has no JSON form"
        in row["error"]
    )


# -- an answer depends on its event alone ----------------------------------------------------------

EXAMPLES = settings(max_examples=examples(10), suppress_health_check=list(HealthCheck))
NAMES = ("age", "income", "score")
FIT = pd.DataFrame(
    {
        "age": range(20, 60),
        "income": np.linspace(900, 4000, 40) % 700,
        "score": np.linspace(0, 1, 40) ** 2,
    }
)
LABELS = (FIT["score"] > 0.3).map({True: "good", False: "bad"})
TARGET = FIT["age"] * 2 - FIT["income"] / 100 + FIT["score"]
NUMBERS = st.integers(0, 99) | st.floats(0, 99, width=32) | st.just(True)
ROWS = st.fixed_dictionaries(dict.fromkeys(NAMES, NUMBERS))
ODD = st.dictionaries(
    st.sampled_from([*NAMES, "note"]),
    NUMBERS | st.none() | st.text(max_size=3) | st.integers(2**53, 2**65),
    max_size=4,
)
WORDS = ["late parcel", "kind letter", "parcel lost", "letter found", "late letter"]


class Positions:
    """Uses positions, as most wrappers do, and says what it saw."""

    def predict(self, frame: Any) -> list[str]:
        return [
            f"{list(frame.columns)} {list(map(str, frame.dtypes))} {row!r}"
            for row in zip(*(frame[c].tolist() for c in frame), strict=True)
        ]


class Doubled:
    """A step of somebody's own, which keeps no names."""

    def fit(self, frame: Any, _: Any = None) -> Doubled:
        return self

    def transform(self, frame: Any) -> Any:
        return frame * 2


def sklearn_of_frame() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(5, random_state=0).fit(FIT, LABELS), {}


def sklearn_of_array() -> Any:
    from sklearn.neighbors import KNeighborsRegressor

    return KNeighborsRegressor(3).fit(FIT.to_numpy(), TARGET), {"columns": NAMES}


def sklearn_behind_an_own_step() -> Any:
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline

    return make_pipeline(Doubled(), LinearRegression()).fit(FIT, TARGET), {}


def texts() -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    return make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(WORDS, list("abaab")), {
        "columns": ["note"]
    }


def own_class() -> Any:
    return Positions(), {"columns": NAMES}


def own_class_with_a_schema() -> Any:
    number = {"type": ["number", "boolean"]}
    return Positions(), {
        "input_schema": {
            "type": "object",
            "required": ["age"],
            "properties": dict.fromkeys(("score", "age", "income"), number),
        }
    }


def lightgbm_booster() -> Any:
    import lightgbm

    return (
        lightgbm.train(
            {"verbose": -1, "min_data_in_leaf": 2}, lightgbm.Dataset(FIT, label=TARGET), 5
        ),
        {},
    )


def lightgbm_of_array() -> Any:
    import lightgbm

    return lightgbm.LGBMRegressor(n_estimators=5, min_child_samples=2, verbose=-1).fit(
        FIT.to_numpy(), TARGET
    ), {"columns": NAMES}


def statsmodels_of_frame() -> Any:
    import statsmodels.api as sm

    return sm.OLS(TARGET, sm.add_constant(FIT)).fit(), {}


def statsmodels_of_array() -> Any:
    import statsmodels.api as sm

    return sm.OLS(TARGET.to_numpy(), sm.add_constant(FIT.to_numpy())).fit(), {"columns": NAMES}


def statsmodels_of_formula() -> Any:
    import statsmodels.formula.api as smf

    return smf.ols("target ~ age + np.sqrt(income) + score", FIT.assign(target=TARGET)).fit(), {}


def catboost_of_frame() -> Any:
    import catboost

    return (
        catboost.CatBoostRegressor(iterations=5, verbose=0, allow_writing_files=False).fit(
            FIT, TARGET
        ),
        {},
    )


def catboost_of_array() -> Any:
    import catboost

    model = catboost.CatBoostClassifier(iterations=5, verbose=0, allow_writing_files=False)
    return model.fit(FIT.to_numpy(), LABELS), {"columns": NAMES, "method": "predict_proba"}


def xgboost_booster() -> Any:
    import xgboost

    return xgboost.train({}, xgboost.DMatrix(FIT, label=TARGET), 5), {}


def xgboost_of_array() -> Any:
    import xgboost

    return xgboost.XGBRegressor(n_estimators=5).fit(FIT.to_numpy(), TARGET), {"columns": NAMES}


def torch_module() -> Any:
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(), torch.nn.Linear(4, 2)), {
        "columns": NAMES
    }


def hugging_face() -> Any:
    return a_pipeline(), {"columns": ["note"]}


@pytest.mark.parametrize(
    "made",
    [
        sklearn_of_frame,
        sklearn_of_array,
        sklearn_behind_an_own_step,
        texts,
        own_class,
        own_class_with_a_schema,
        *(
            pytest.param(made, marks=pytest.mark.needs("lightgbm"))
            for made in (lightgbm_booster, lightgbm_of_array)
        ),
        *(
            pytest.param(made, marks=pytest.mark.needs("statsmodels"))
            for made in (statsmodels_of_frame, statsmodels_of_array, statsmodels_of_formula)
        ),
        *(
            pytest.param(made, marks=pytest.mark.needs("catboost"))
            for made in (catboost_of_frame, catboost_of_array)
        ),
        *(
            pytest.param(made, marks=pytest.mark.needs("xgboost"))
            for made in (xgboost_booster, xgboost_of_array)
        ),
        pytest.param(torch_module, marks=pytest.mark.needs("torch")),
        pytest.param(hugging_face, marks=pytest.mark.needs("torch", "transformers")),
    ],
)
def test_an_answer_is_the_same_alone_and_in_any_batch_and_with_any_order_of_keys(
    made: Callable[[], Any],
) -> None:
    target, described = made()
    model = Invoker(mt.model(target, name="m", version="1.0.0", **described))
    assert not isinstance(
        outcome(model.one(Event(dict.fromkeys(NAMES, 1.0) | {"note": "late parcel"}))), str
    ), "no event is answered"

    @given(st.lists(ROWS | ODD, min_size=1, max_size=6), st.randoms(use_true_random=False))
    @EXAMPLES
    def check(batch: list[dict[str, Any]], random: Any) -> None:
        shuffled = [dict(random.sample(list(row.items()), len(row))) for row in batch]
        alone = [outcome(model.one(Event(row))) for row in batch]
        assert [outcome(result) for result in model.many([Event(row) for row in shuffled])] == alone
        assert [outcome(result) for result in model.many(list(map(delivered, shuffled)))] == alone

    check()


def delivered(data: Any) -> Event:
    """Return an event as a store delivers it: with its data not decoded yet."""
    raw = codec.dumps(data).encode()
    return restored(raw, "row", "/here", "1", datetime.now(UTC), None, None, None, {})


def outcome(result: Result) -> Any:
    """Return an answer, its floating-point numbers rounded as sums of another order differ; or why
    there is none.
    """
    return rounded(codec.loads(result.output)) if result.output is not None else result.reason


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return "NaN" if value != value else pytest.approx(value, rel=1e-4, abs=1e-6)
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    return tuple(map(rounded, value)) if isinstance(value, list) else [value]


@functools.cache
def a_pipeline(**options: Any) -> Any:
    """Return a pipeline of Hugging Face with a model that never learnt anything."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast, pipeline

    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "late", "letter", "parcel", "kind"]
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder, "vocab.txt")
        vocabulary.write_text("\n".join(words))
        tokenizer = BertTokenizerFast(str(vocabulary))
    return pipeline(
        "text-classification",
        BertForSequenceClassification(config),
        tokenizer=tokenizer,
        device="cpu",
        **options,
    )


# -- columns ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "made",
    [
        sklearn_of_array,
        own_class,
        pytest.param(lightgbm_of_array, marks=pytest.mark.needs("lightgbm")),
        pytest.param(statsmodels_of_array, marks=pytest.mark.needs("statsmodels")),
        pytest.param(catboost_of_array, marks=pytest.mark.needs("catboost")),
        pytest.param(xgboost_of_array, marks=pytest.mark.needs("xgboost")),
        pytest.param(torch_module, marks=pytest.mark.needs("torch")),
    ],
)
def test_records_are_refused_with_two_ways_out_where_nobody_knows_the_order_of_columns(
    made: Callable[[], Any],
) -> None:
    target, _ = made()
    for record in (
        {"age": 30, "income": 2000.0, "score": 0.5},
        {"Column_0": 30, "Column_1": 2, "Column_2": 1},
    ):
        (result,) = results(target, record)

        assert (result.reason, result.permanent, result.error_type) == (
            "invalid_input",
            True,
            "InvalidInput",
        )
        assert "the order of the columns of 'm' is not known" in (result.error or "")
        assert f"mt.model(…, columns={list(record)})" in (result.error or "")


@pytest.mark.parametrize(
    "made", [sklearn_of_array, pytest.param(xgboost_of_array, marks=pytest.mark.needs("xgboost"))]
)
def test_columns_give_a_model_of_an_array_the_rows_that_it_learnt_from(
    made: Callable[[], Any],
) -> None:
    target, described = made()
    records = [
        dict(zip(reversed(NAMES), reversed(row), strict=True))
        for row in FIT.head(7).to_numpy().tolist()
    ]

    assert answered(target, *records, **described) == pytest.approx(
        target.predict(FIT.head(7).to_numpy()).tolist()
    )


@pytest.mark.needs("statsmodels")
@pytest.mark.parametrize(
    "made", [statsmodels_of_frame, statsmodels_of_array, statsmodels_of_formula]
)
def test_the_constant_of_a_regression_need_not_be_sent(made: Callable[[], Any]) -> None:
    target, described = made()
    records = FIT.head(5).to_dict(orient="records")

    assert answered(target, *records, **described) == pytest.approx(
        target.fittedvalues[:5].tolist() if hasattr(target.fittedvalues, "tolist") else 0
    )


def test_missing_columns_are_named_and_the_event_is_dead_at_once(bus: mt.EventBus) -> None:
    target, _ = sklearn_of_frame()
    sub = bus.subscribe("people", mt.model(target, name="credit", version="1.0.0"), max_attempts=3)
    whole = {"score": 0.5, "income": 1000, "age": 30, "city": "Graz"}
    rows = bus.fire(
        "people", [{"city": "Graz"}, {"age": 30, "score": 1}, whole], progress=False
    ).results()

    assert sub.invocations()["attempt"].tolist() == [1, 1, 1]
    assert rows["reason"].tolist()[:2] == ["invalid_input"] * 2
    assert rows["error"].tolist()[:2] == [
        "InvalidInput: 'credit' needs the columns 'age', 'income', 'score'; the event has 'city'",
        "InvalidInput: 'credit' needs the column 'income'; the event has 'age', 'score'",
    ]
    assert rows["outcome"].tolist() == ["dead", "dead", "succeeded"]


def test_a_column_transformer_does_without_the_columns_that_it_drops() -> None:
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    target = make_pipeline(
        make_column_transformer((StandardScaler(), ["age", "score"])), LinearRegression()
    ).fit(FIT, TARGET)

    assert answered(target, {"score": 0.5, "age": 30}, {"age": 30}) == [
        pytest.approx(target.predict(pd.DataFrame([{"age": 30, "income": 0, "score": 0.5}]))[0]),
        "invalid_input",
    ]


def test_what_a_schema_does_not_require_is_null_or_its_default_so_that_the_others_keep_their_places() -> (
    None
):
    fields = {
        "b": {"type": "number"},
        "a": {"type": "integer", "default": 7},
        "c": {"type": ["integer", "null"]},
    }
    schema = {"type": "object", "required": ["b"], "properties": fields}

    assert answered(Positions(), {"b": 0.5}, input_schema=schema) == [
        "['b', 'a', 'c'] ['float64', 'int64', 'object'] (0.5, 7, None)"
    ]


def test_integers_stay_exact_beside_numbers_with_a_fraction_and_beyond_64_bits() -> None:
    values = [2**53 + 1, 0.5, 2**63, None, 2**70, -(2**63), "x", True]

    alone, beside = (
        [answered(Positions(), {"id": v}, columns=["id"])[0] for v in values],
        answered(Positions(), *({"id": v} for v in values), columns=["id"]),
    )
    assert beside == alone
    assert alone[0] == "['id'] ['int64'] (9007199254740993,)"
    assert alone[2] == "['id'] ['uint64'] (9223372036854775808,)"


def test_events_that_are_alike_share_one_call_whatever_the_order_of_their_keys() -> None:
    calls: list[int] = []

    class Counts:
        def predict(self, frame: Any) -> Any:
            calls.append(len(frame))
            return [0] * len(frame)

    records = [{"a": 1, "b": 0.5} if n % 2 else {"b": 0.5, "note": "", "a": n} for n in range(50)]
    results(Counts(), *records, columns=["a", "b"])

    assert calls == [50]


def test_one_row_that_fails_does_not_part_the_others() -> None:
    class Fragile:
        def predict(self, frame: Any) -> list[float]:
            return [1 / value for value in frame["a"].tolist()]

    assert answered(Fragile(), {"a": 2}, {"a": 0.5}, {"a": 0}, {"a": 4}, {}, columns=["a"]) == [
        0.5,
        2.0,
        "model_error",
        0.25,
        "invalid_input",
    ]


@pytest.mark.parametrize("columns", ["age", [], ["age", "age"], ["age", 3], 7])
def test_columns_that_are_no_list_of_names_are_refused(columns: Any) -> None:
    with pytest.raises(mt.InvalidModel, match=r"model 'm': columns="):
        mt.model(Positions(), name="m", columns=columns)


def test_columns_are_refused_where_they_mean_nothing() -> None:
    with pytest.raises(mt.InvalidModel, match="a function gets the data as it is"):
        mt.model(len, name="m", columns=["a"])
    with pytest.raises(
        mt.InvalidModel,
        match="was fitted with the columns 'age', 'income', 'score': leave columns= out",
    ):
        mt.model(sklearn_of_frame()[0], name="m", columns=["a", "b", "c"])


def test_columns_are_a_part_of_the_version(bus: mt.EventBus) -> None:
    first = bus.register(mt.model(Positions(), name="m", version="1.0.0", columns=["a", "b"]))

    assert json.loads(first.options or "")["columns"] == ["a", "b"]
    assert (
        bus.register(mt.model(Positions(), name="m", version="1.0.0", columns=("a", "b"))).id
        == first.id
    )
    with pytest.raises(mt.VersionConflict):
        bus.register(mt.model(Positions(), name="m", version="1.0.0", columns=["b", "a"]))
    builds = {
        str(bus.register(mt.model(Positions(), name="m", columns=columns)))
        for columns in (["a"], ["b"])
    }
    assert len(builds) == 2


# -- texts -----------------------------------------------------------------------------------------


def test_a_text_pipeline_reads_the_one_text_field_of_a_record_or_the_one_that_was_named() -> None:
    target, named = texts()
    right = target.predict(["letter found"])[0]

    assert (
        answered(
            target, "letter found", {"note": "letter found"}, {"id": 7, "body": "letter found"}
        )
        == [right] * 3
    )
    assert answered(target, {"note": "letter found", "lang": "en"}, **named) == [right]
    for record in (
        {"note": "letter", "lang": "en"},
        {"note": "letter", "reply": None},
        {"id": 7},
        {},
    ):
        (result,) = results(target, record)
        assert (result.reason, result.permanent) == ("invalid_input", True)
        assert "mt.model(…, columns=['text']), or publish the text alone" in (result.error or "")


def test_a_vectorizer_behind_functions_in_a_union_or_a_search_is_still_one_of_texts() -> None:
    from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.preprocessing import FunctionTransformer

    lower = FunctionTransformer(lambda texts: [text.lower() for text in texts])
    labels = list("abaab") * 3
    for target in (
        make_pipeline(lower, CountVectorizer(), LogisticRegression()),
        make_pipeline(
            make_union(TfidfVectorizer(), HashingVectorizer(n_features=16)), LogisticRegression()
        ),
        GridSearchCV(make_pipeline(TfidfVectorizer(), LogisticRegression()), {}, cv=3),
    ):
        target.fit(WORDS * 3, labels)
        assert (
            answered(target, *({"body": text} for text in WORDS)) == target.predict(WORDS).tolist()
        )


def test_a_vectorizer_of_dicts_gets_the_records() -> None:
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline

    records = [{"city": "Lima", "m": 161}, {"m": 23, "city": "Oslo"}, {"city": "Bern"}]
    target = make_pipeline(DictVectorizer(), LinearRegression()).fit(records, [1, 2, 3])

    assert answered(target, *records) == pytest.approx(target.predict(records).tolist())


def test_no_event_names_a_file_that_a_vectorizer_opens(tmp_path: Path) -> None:
    from sklearn.feature_extraction.text import CountVectorizer

    secret = tmp_path / "secret.txt"
    secret.write_text("late parcel")
    target = CountVectorizer(input="filename").fit([str(secret)])

    assert answered(target, str(secret), {"path": str(secret)}) == ["invalid_input"] * 2


# -- probabilities ---------------------------------------------------------------------------------


def test_probabilities_have_the_names_of_their_classes() -> None:
    target, _ = sklearn_of_frame()
    row = {"age": 30, "income": 100.0, "score": 0.9}

    (answer,) = answered(target, row, method="predict_proba")
    assert answer == dict(
        zip(["bad", "good"], target.predict_proba(pd.DataFrame([row]))[0].tolist(), strict=True)
    )


@pytest.mark.parametrize("count", [1, 2, 3])
def test_probabilities_of_several_targets_are_those_of_each_event(count: int) -> None:
    from sklearn.ensemble import RandomForestClassifier

    rows = np.arange(24.0).reshape(12, 2)
    fitted = RandomForestClassifier(3, random_state=0).fit(
        rows, np.c_[rows[:, 0] > 9, rows[:, 1] > 15].astype(int)
    )

    found = answered(
        fitted, *[[9.0 + 2 * n, 10.0 + 2 * n] for n in range(count)], method="predict_proba"
    )

    right = [fitted.predict_proba([[9.0 + 2 * n, 10.0 + 2 * n]]) for n in range(count)]
    assert found == [[{"0": target[0][0], "1": target[0][1]} for target in one] for one in right]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_several_arrays_of_a_method_are_parted_by_event(count: int) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    fitted = KNeighborsClassifier(2).fit(np.arange(12.0).reshape(6, 2), [0, 1, 0, 1, 0, 1])

    found = answered(fitted, *[[2.0 * n, 1.0 + 2 * n] for n in range(count)], method="kneighbors")

    right = [fitted.kneighbors([[2.0 * n, 1.0 + 2 * n]]) for n in range(count)]
    assert found == [[distances[0].tolist(), places[0].tolist()] for distances, places in right]


# -- neural networks -------------------------------------------------------------------------------


@pytest.mark.needs("torch")
def test_a_torch_module_gets_tensors_of_lists_and_records_in_evaluation_mode() -> None:
    import torch

    target, described = torch_module()
    target.train()
    rows = [[0.5, -1.0, 2.0], [1, 2, 3], [0.0, 1.0, 0.0]]
    records = [dict(zip(NAMES, row, strict=True)) for row in rows]
    found = answered(target, *rows, *records, "text", [1.0], **described)

    with torch.no_grad():
        right = target.eval()(torch.tensor(rows)).tolist()
    assert found[:6] == [pytest.approx(row, abs=1e-6) for row in right * 2]
    assert found[6:] == ["invalid_input", "model_error"]


@pytest.mark.needs("torch")
def test_a_torch_module_gets_integers_where_it_looks_them_up_and_fields_by_the_names_of_its_inputs() -> (
    None
):
    import torch

    class Matches(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users = torch.nn.Embedding(5, 2)

        def forward(self, user: Any, weight: Any, bias: Any = None) -> Any:
            return {"dot": self.users(user).sum(-1) * weight, "types": torch.stack([user, user]).T}

    target = Matches()
    found = answered(target, {"weight": 0.5, "user": 3}, {"user": 1, "weight": 2.0}, {"user": 1})

    assert found[0] == {
        "dot": pytest.approx(target.users.weight[3].sum().item() * 0.5),
        "types": [3, 3],
    }
    assert found[1]["types"] == [1, 1]
    assert found[2] == "invalid_input"


@pytest.mark.needs("torch")
def test_a_torch_module_keeps_its_precision_and_arrays_of_other_shapes_are_calls_of_their_own() -> (
    None
):
    import torch

    class Sums(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

        def forward(self, x: Any) -> Any:
            return (x * self.scale).sum(-1), x[:, 0]

    assert answered(Sums(), [0.1, 0.2], [1.0, 2.0, 3.0], [0.1, 0.3], {"x": [0.5]}) == [
        [pytest.approx(0.6, abs=1e-12), 0.1],
        [12.0, 1.0],
        [pytest.approx(0.8, abs=1e-12), 0.1],
        [1.0, 0.5],
    ]


@pytest.mark.needs("torch")
@pytest.mark.parametrize("count", [1, 2, 3])
def test_several_tensors_of_a_torch_module_are_parted_by_event(count: int) -> None:
    import torch

    class Both(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return [x.sum(1, keepdim=True), x]

    class Found(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            # as detectors answer: a list with one tensor an image
            return [row[row > 1] for row in x]

    rows = [[float(n), n + 1.0, n + 2.0] for n in range(count)]

    assert answered(Both(), *rows) == [[[sum(row)], row] for row in rows]
    assert answered(Found(), *rows) == [[value for value in row if value > 1] for row in rows]


@pytest.mark.needs("torch")
def test_events_that_are_one_number_are_never_the_features_of_one() -> None:
    import torch

    assert answered(torch.nn.Linear(2, 2), 1.0, 2.0) == ["model_error"] * 2
    assert answered(torch.nn.Embedding.from_pretrained(torch.tensor([[0.0], [5.0]])), 1, 0) == [
        [5.0],
        [0.0],
    ]


@pytest.mark.needs("torch", "keras")
def test_a_keras_model_gets_arrays_of_lists_records_and_named_inputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    import keras

    target = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    rows = [[0.5, -1.0, 2.0], [1, 2, 3]]
    right = [
        pytest.approx(row, abs=1e-5)
        for row in target.predict(np.array(rows, "float32"), verbose=0).tolist()
    ]
    records = [{"c": row[2], "a": row[0], "b": row[1]} for row in rows]
    assert (
        answered(target, *rows, *records, {"pixels": rows[0]}, columns=["a", "b", "c"])[:4]
        == right * 2
    )
    assert answered(target, {"pixels": rows[0]}) == right[:1]

    a, b = keras.Input((1,), name="a"), keras.Input((2,), name="b")
    two = keras.Model([a, b], [keras.layers.Concatenate()([a, b]), a])
    assert answered(two, {"b": [2.0, 3.0], "a": [1.0]}, {"a": [4.0], "b": [5.0, 6.0]}) == [
        [[1.0, 2.0, 3.0], [1.0]],
        [[4.0, 5.0, 6.0], [4.0]],
    ]


@pytest.mark.needs("xgboost")
def test_a_booster_of_xgboost_gets_a_matrix() -> None:
    import xgboost

    target, _ = xgboost_booster()
    rows = FIT.head(4)
    right = pytest.approx(target.predict(xgboost.DMatrix(rows)).tolist())

    assert answered(target, *rows.to_dict(orient="records")) == right
    unnamed = xgboost.train({}, xgboost.DMatrix(FIT.to_numpy(), label=TARGET), 5)
    assert answered(unnamed, *rows.to_numpy().tolist()) == right
    assert answered(unnamed, *rows.to_dict(orient="records"), columns=NAMES) == right


@pytest.mark.needs("torch", "transformers")
def test_a_pipeline_of_hugging_face_takes_texts_and_records_with_one_text_in_one_call() -> None:
    target = a_pipeline()
    texts = ["late parcel", "kind letter late parcel"]
    found = answered(target, *texts, *({"id": 7, "text": text} for text in texts))

    assert not target.model.training
    right = [
        {"label": each["label"], "score": pytest.approx(each["score"], abs=1e-5)}
        for each in (target(text)[0] for text in texts)
    ]
    assert found == right * 2
    assert answered(target, {"text": "late", "lang": "en"}, {"id": 7}) == ["invalid_input"] * 2


# -- other processes -------------------------------------------------------------------------------

RATIO = """
class Ratio:
    def predict(self, frame):
        values = frame.to_numpy()
        return (values[:, 0] / values[:, 1]).tolist()
"""


@pytest.mark.parametrize("isolation", ["thread", "process"])
@pytest.mark.parametrize("told", ["columns", "schema"])
def test_the_order_of_columns_is_the_same_in_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolation: str, told: str
) -> None:
    tmp_path.joinpath("ratios.py").write_text(RATIO)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    url, fields = (
        f"sqlite:///{tmp_path}/bus.db",
        {"width": {"type": "number"}, "height": {"type": "number"}},
    )
    schema = {"type": "object", "required": ["height"], "properties": fields}
    said: dict[str, Any] = (
        {"columns": ["width", "height"]} if told == "columns" else {"input_schema": schema}
    )
    with mt.connect(url) as bus:
        bus.subscribe(
            "sides",
            mt.model("ratios:Ratio", name="ratio", version="1.0.0", **said),
            listen=False,
            isolation=isolation,
        )
    with mt.connect(url) as bus:  # another process knows only what the registry keeps
        sub = bus.subscribe("sides", "ratio:1.0.0", isolation=isolation)
        bus.fire("sides", [{"height": 4, "width": 2.0}], progress=False)

        assert sub.results()["output"].tolist() == [0.5]
