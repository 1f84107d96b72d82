"""The public face: its names, what they cost, and what it says when a name is wrong."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import public_api
import pytest

import mltrigger as mt

ROOT = Path(mt.__file__).parent.parent
PACKAGE = ROOT / "mltrigger"
HEAVY = [
    "boto3",
    "botocore",
    "pandas",
    "numpy",
    "ipywidgets",
    "anywidget",
    "cloudevents",
    "requests",
    "tqdm",
    "semver",
    "sqlite3",
]


def run(program: str, cwd: Path, **environment: str) -> Any:
    """Return what *program* prints as JSON, run by a fresh interpreter in the folder *cwd*."""
    kept = {name: value for name, value in os.environ.items() if name != "MLTRIGGER_URL"}
    command = [sys.executable, "-c", f"import json, os, sys, threading\n{program}"]
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory and no default bus, before and after."""
    mt.close()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLTRIGGER_URL", raising=False)
    yield tmp_path
    mt.close()


@pytest.fixture
def memory_bus() -> Iterator[mt.EventBus]:
    with mt.connect("memory://") as bus:
        yield bus


# -- names -----------------------------------------------------------------------------------------


def test_all_is_sorted_and_has_no_name_twice() -> None:
    assert mt.__all__ == sorted(set(mt.__all__))


def test_all_is_complete() -> None:
    """Whatever can be had from the package without an underscore is either public or a room of it."""
    rooms = {path.stem for path in PACKAGE.iterdir() if not path.name.startswith("_")}
    spare = {
        "annotations",
        "importlib",
        "logging",
        "threading",
        "functools",
        "Any",
        "TYPE_CHECKING",
    }
    found = {name for name in vars(mt) if not name.startswith("_")} - rooms - spare

    assert found <= set(mt.__all__)
    assert set(mt._HOME) | set(mt._OF_THE_BUS) <= set(mt.__all__)


def test_public_names_and_signatures_are_those_that_were_agreed() -> None:
    """A change breaks the programs of users; ``tests/public_api.py`` says how to renew the text."""
    agreed = (ROOT / "tests" / "data" / "api.txt").read_text().splitlines()

    assert list(public_api.lines()) == agreed


SUBMODULES = """
import importlib, pkgutil, types
import mltrigger as mt

names = [found.name for found in pkgutil.walk_packages(mt.__path__, "mltrigger.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
modules = [name for name in mt.__all__ if isinstance(getattr(mt, name), types.ModuleType)]
print(json.dumps({"modules": modules, "imported": len(names)}))
"""


def test_no_submodule_takes_the_place_of_a_public_name(tmp_path: Path) -> None:
    """Importing ``mltrigger.model.x`` would make ``mt.model`` a module."""
    found = run(SUBMODULES, tmp_path)

    assert found["modules"] == []
    assert found["imported"] > 100


def test_completion_offers_public_names_only() -> None:
    """Rooms that happen to be loaded would otherwise be offered beside them."""
    import mltrigger.filters
    import mltrigger.store.registry  # noqa: F401 - as a user's program may

    assert set(dir(mt)) == {*mt.__all__, "agree", "aws", "schemes", "testing"}


OF_A_BUS_ONLY = {
    "close",
    "closed",  # mt.close() ends the default bus
    "archived",
    "borrowed_listener",
    "busy",
    "depth_by_key",
    "event_of",
    "listen",
    "listener_state",
    "model_of",
    "run_of",
    "skipped",
    "spec",
    "stop_listening",
    "tally",
    "try_out",
    "vitals",
}
"""What a bus has and the module has not: its state, and what its own parts call."""


def test_every_call_of_a_bus_exists_on_the_module() -> None:
    calls = {name for name in dir(mt.EventBus) if not name.startswith("_")}

    assert sorted(calls - set(mt._OF_THE_BUS) - OF_A_BUS_ONLY) == []


def test_calls_of_the_module_are_those_of_the_default_bus(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLTRIGGER_URL", "memory://")
    mt.subscribe("numbers", abs, name="reader")
    mt.publish("numbers", -3)

    assert mt.wait(timeout_s=20, progress=False)
    assert mt.subscription("reader").results()["output"].tolist() == [3]
    assert mt.plan().empty


def test_every_setting_of_a_policy_is_a_keyword_of_subscribe() -> None:
    import dataclasses
    import typing

    from mltrigger.policy import DeliveryPolicy, Settings

    fields = {field.name: field for field in dataclasses.fields(DeliveryPolicy)}
    for call in (mt.subscribe, mt.EventBus.subscribe, mt.plan):
        parameters = inspect.signature(call).parameters
        assert {name: parameters[name].default for name in fields} == {
            name: field.default for name, field in fields.items()
        }
        assert all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values())
    assert typing.get_type_hints(Settings) == typing.get_type_hints(DeliveryPolicy)


TYPED = """
import mltrigger as mt

sub: mt.Subscription = mt.subscribe("t", len, timeout_s=3, isolation="process")

@mt.subscribe("t", max_attempts=2)
def decorated(data: object) -> object:
    return data

also: mt.Subscription = decorated
one: mt.Subscription = mt.subscription("t")
done: bool = mt.wait(timeout_s=3)
wrong = mt.subscribe("t", len, tmeout_s=3)
"""


@pytest.mark.needs("mypy")
@pytest.mark.slow
def test_a_type_checker_knows_the_settings_and_the_result_of_subscribe(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(TYPED)

    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--cache-dir",
        str(tmp_path / "cache"),
        str(tmp_path / "user.py"),
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    found = re.findall(r"user\.py:(\d+): error: (.*)", done.stdout)
    assert [line for line, _ in found] == ["13"] * len(found)
    assert any('did you mean "timeout_s"?' in text for _, text in found)


def test_completion_in_a_notebook_offers_the_settings() -> None:
    from IPython.core.completer import provisionalcompleter
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.user_ns["mt"] = mt
    with provisionalcompleter():
        text = 'mt.subscribe("t", len, time'
        offered = {found.text for found in shell.Completer.completions(text, len(text))}

    assert "timeout_s=" in offered


def test_an_error_of_ours_comes_without_our_inner_frames(memory_bus: mt.EventBus) -> None:
    """A user reads the message and the own line; ten frames of the package say nothing."""
    with pytest.raises(mt.NotFound) as caught:
        memory_bus.publish("nowhere", 1)

    frames = [entry.path for entry in caught.traceback]
    assert len(frames) == 2
    assert Path(frames[0]) == Path(__file__)


def test_every_public_name_is_there(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLTRIGGER_URL", "memory://")

    for name in mt.__all__:
        assert getattr(mt, name) is not None
        assert name in dir(mt)


def test_every_public_name_has_a_docstring(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLTRIGGER_URL", "memory://")
    bare = []
    for name in mt.__all__:
        value = getattr(mt, name)
        if not callable(value):
            continue
        members = (
            {f"{name}.{m}": v for m, v in vars(value).items() if not m.startswith("_")}
            if inspect.isclass(value)
            else {}
        )
        documented = {
            m: v
            for m, v in members.items()
            if inspect.isfunction(v) or isinstance(v, (property, classmethod, staticmethod))
        }
        bare += [n for n, v in {name: value, **documented}.items() if not inspect.getdoc(v)]

    assert bare == []


def test_a_name_that_does_not_exist_is_an_attribute_error_and_opens_nothing(here: Path) -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'subcribe'; did you mean 'subscribe'"):
        mt.subcribe  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(mt, "__wrapped__")
    assert list(here.iterdir()) == []


def test_every_error_of_the_package_is_public_and_one_of_its_base() -> None:
    from mltrigger import errors

    classes = {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, Exception)
    }
    assert set(classes) <= set(mt.__all__)
    assert {
        name for name, value in classes.items() if not issubclass(value, mt.MltriggerError)
    } == {"Retry", "Reject", "ModelFailure"}
    assert all(name in (errors.__doc__ or "") for name in classes), (
        "the tree in the docstring of errors.py is not whole"
    )


def test_the_version_is_the_one_of_the_package(tmp_path: Path) -> None:
    from importlib.metadata import PackageNotFoundError, version

    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", mt.__version__)
    try:
        installed = version("mltrigger")
    except PackageNotFoundError:
        return
    assert installed == mt.__version__


# -- what a name costs -----------------------------------------------------------------------------


def test_importing_the_package_loads_nothing_heavy(tmp_path: Path) -> None:
    loaded = run("import mltrigger; print(json.dumps(sorted(sys.modules)))", tmp_path)

    assert not set(HEAVY) & set(loaded)
    assert [name for name in loaded if name.startswith("mltrigger")] == [
        "mltrigger",
        "mltrigger._version",
    ]


DESCRIBE = """
import mltrigger as mt

@mt.model("ocr", version="1.0.0")
def read_page(page):
    return page

event = mt.Event({"page": 1})
repr(read_page), repr(event), event._repr_html_(), read_page.describe(), mt.DeliveryPolicy(), mt.NotFound
print(json.dumps({"files": os.listdir(), "threads": threading.active_count(), "loaded": sorted(sys.modules)}))
"""


def test_a_model_and_an_event_only_describe(tmp_path: Path) -> None:
    found = run(DESCRIBE, tmp_path)

    assert found["files"] == []
    assert found["threads"] == 1
    assert not {
        "boto3",
        "pandas",
        "ipywidgets",
        "anywidget",
        "cloudevents",
        "sqlite3",
    } & set(found["loaded"])


def test_a_bus_loads_neither_aws_nor_widgets(tmp_path: Path) -> None:
    program = """
import mltrigger as mt
with mt.connect("memory://") as bus:
    bus.topic("pages")
    bus.publish("pages", 1)
print(json.dumps(sorted(sys.modules)))
"""
    assert not {
        "boto3",
        "botocore",
        "ipywidgets",
        "anywidget",
        "cloudevents",
        "requests",
        "IPython",
    } & set(run(program, tmp_path))


NAMES = """
import mltrigger as mt
from mltrigger import *
from mltrigger import fire, publish, subscribe
for name in mt.__all__:
    getattr(mt, name)
print(json.dumps({"files": os.listdir(), "threads": threading.active_count()}))
"""


def test_reading_the_public_names_opens_nothing(tmp_path: Path) -> None:
    """Completion in a notebook reads every one of them, and so does ``from mltrigger import
    publish``.
    """
    assert run(NAMES, tmp_path) == {"files": [], "threads": 1}


def test_a_function_that_was_imported_by_name_goes_on_after_close(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLTRIGGER_URL", "memory://")
    from mltrigger import topic, topics

    topic("pages")
    mt.close()
    topic("scans")

    assert topics()["topic"].tolist() == ["scans"]


# -- the default bus -------------------------------------------------------------------------------


def test_the_default_bus_is_a_file_in_the_working_directory(here: Path) -> None:
    mt.topic("pages")

    assert (here / "mltrigger.db").is_file()
    assert mt.topics()["topic"].tolist() == ["pages"]


def test_the_default_bus_follows_the_environment(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLTRIGGER_URL", f"sqlite:///{here / 'elsewhere.db'}")
    mt.topic("pages")

    assert (here / "elsewhere.db").is_file()
    assert not (here / "mltrigger.db").exists()


def test_the_default_bus_is_one_and_opens_again_after_it_was_closed(here: Path) -> None:
    first = mt.default_bus()
    assert mt.default_bus() is first
    mt.topic("pages")
    mt.close()
    mt.close()

    assert first.closed
    assert mt.topics()["topic"].tolist() == ["pages"]
    assert mt.default_bus() is not first


def test_a_default_bus_that_was_closed_by_hand_opens_again(here: Path) -> None:
    mt.default_bus().close()

    mt.topic("pages")
    assert mt.topics()["topic"].tolist() == ["pages"]


def test_another_bus_may_be_made_the_default(here: Path) -> None:
    before = mt.default_bus()
    bus = mt.use("memory://")

    assert mt.default_bus() is bus
    assert before.closed


def test_the_functions_of_the_module_are_those_of_the_default_bus(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLTRIGGER_URL", "memory://")

    @mt.model("doubled", version="1.0.0")
    def double(x: int) -> int:
        return 2 * x

    sub = mt.subscribe("numbers", double)
    run_ = mt.fire("numbers", [1, 2], timeout_s=30, progress=False)
    mt.alias("doubled", "champion", "1.0.0")

    assert run_.results()["output"].tolist() == [2, 4]
    assert len(mt.invocations()) == len(sub.invocations()) == 2
    assert mt.latency()["count"].tolist() == [2, 2, 2]
    assert mt.subscriptions()["subscription"].tolist() == ["doubled"]
    assert mt.trace(run_.receipts[0].event_id)["outcome"].tolist() == ["succeeded"]
    assert mt.default_bus().models()["aliases"].tolist() == ["champion"]
    mt.unsubscribe("doubled")
    assert len(mt.subscriptions()) == 0


# -- wrong names -----------------------------------------------------------------------------------


def doubled(x: int) -> int:
    return 2 * x


@pytest.fixture
def furnished(memory_bus: mt.EventBus) -> mt.EventBus:
    memory_bus.subscribe(
        "documents", mt.model(doubled, name="ocr", version="1.0.0"), name="reader", listen=False
    )
    memory_bus.alias("ocr", "champion", "1.0.0")
    return memory_bus


@pytest.mark.parametrize(
    ("ask", "near"),
    [
        (lambda bus: bus.publish("documnets", 1), "'documents'"),
        (lambda bus: bus.fire("document", [1], progress=False), "'documents'"),
        (lambda bus: bus.events("documenst"), "'documents'"),
        (lambda bus: bus.invocations(columns=["outcme"]), "'outcome'"),
        (lambda bus: bus.invocations("raeder"), "'reader'"),
        (lambda bus: bus.subscription("readr"), "'reader'"),
        (lambda bus: bus.subscribe("documents", "ocrr"), "'ocr'"),
        (lambda bus: bus.subscribe("documents", "ocr:1.0.1"), "'ocr:1.0.0'"),
        (lambda bus: bus.subscribe("documents", "ocr@champoin"), "'ocr@champion'"),
        (lambda bus: bus.alias("ocr", "next", "1.0.1"), "'ocr:1.0.0'"),
        (lambda bus: bus.subscribe("documents", "ocr", time_out_s=5), "'timeout_s'"),
        (lambda bus: bus.subscribe("documents", doubled, batchsize=5), "'batch_size'"),
        (lambda bus: bus.subscribe("documents", doubled, start="latst"), "'latest'"),
        (lambda bus: mt.connect("memory://?durabillity=normal"), "'durability'"),
    ],
)
def test_a_wrong_name_is_answered_with_the_near_ones(
    furnished: mt.EventBus, ask: Any, near: str
) -> None:
    with pytest.raises((mt.NotFound, mt.InvalidPolicy)) as caught:
        ask(furnished)

    assert f"did you mean {near}" in str(caught.value)
    assert isinstance(
        caught.value, ValueError if near in ("'timeout_s'", "'batch_size'") else LookupError
    )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "memory://x",
        "sqlite://",
        "sqlite:///",
        "sqllite:///x.db",
        "mysql://host/db",
        "/tmp/x.db",
    ],
)
def test_a_url_without_a_broker_is_answered_with_the_known_forms(here: Path, url: str) -> None:
    if not url:
        with mt.connect(url) as bus:  # as if it was left out
            assert "mltrigger.db" in repr(bus)
        return
    with pytest.raises(mt.StoreError, match="known forms: memory://"):
        mt.connect(url)


def test_a_url_with_a_password_is_not_repeated() -> None:
    with pytest.raises(mt.StoreError) as caught:
        mt.connect("mysql://user:hunter2@host/db")

    assert "hunter2" not in str(caught.value)


def test_a_closed_bus_says_so_whatever_it_is_asked(memory_bus: mt.EventBus) -> None:
    memory_bus.close()

    calls = [
        memory_bus.models,
        memory_bus.topics,
        memory_bus.subscriptions,
        memory_bus.events,
        memory_bus.invocations,
        memory_bus.latency,
    ]
    for call in [
        *calls,
        lambda: memory_bus.publish("t", 1),
        lambda: memory_bus.subscribe("t", doubled),
        lambda: memory_bus.register(doubled),
    ]:
        with pytest.raises(mt.Closed, match="closed"):
            call()
    assert "closed" in repr(memory_bus)


def test_a_naive_since_is_refused_with_the_remedy(furnished: mt.EventBus) -> None:
    for ask in (
        furnished.invocations,
        furnished.events,
        furnished.subscription("reader").invocations,
    ):
        with pytest.raises(
            mt.InvalidEvent, match=r"is naive; give its zone, for example datetime\.now\(UTC\)"
        ):
            ask(since=datetime(2026, 11, 23))


@pytest.mark.parametrize(
    "name", ["", "a b", "a.b", "a/b", "é", "x" * 81, "a\n", "arn:aws:sns:x", 5, None]
)
def test_a_topic_name_that_some_broker_refuses_is_refused_here(
    memory_bus: mt.EventBus, name: Any
) -> None:
    with pytest.raises(mt.InvalidName, match="letters, digits"):
        memory_bus.topic(name)


@pytest.mark.parametrize("name", ["a", "A-b_9", "x" * 80])
def test_a_topic_name_that_every_broker_takes_is_taken(memory_bus: mt.EventBus, name: str) -> None:
    assert memory_bus.topic(name) == name
    assert memory_bus.topic(name) == name
    assert memory_bus.topics()["topic"].tolist() == [name]
