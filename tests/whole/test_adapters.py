"""Other packages add sources and brokers by entry points, as they add schemes of models."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mltrigger as mt
from mltrigger.broker import SOURCES, scheme_of, shown, source_at
from mltrigger.names import entry_points

_PACKAGE = '''
"""A source that counts, and a broker in memory that remembers topics."""
import threading

import mltrigger as mt
from mltrigger.broker import Finding, Source
from mltrigger.store.opening import Parts, embedded, store_at

STOPPED = []


class Counter:
    """Feeds numbers from a thread of its own."""

    def __init__(self, feed):
        self._feed, self._topics, self._left = feed, set(), {}

    def feed(self, topic, source, policies):
        assert policies
        if topic not in self._topics:
            self._topics.add(topic)
            self._left[topic] = threading.Thread(target=self._count, args=(topic, source))
            self._left[topic].start()

    def _count(self, topic, source):
        attribute = f"counting/{topic}"
        known = len(self._feed.history(topic, attribute, 0))
        for n in range(known, source.most):
            event = mt.Event(n, id=str(n), source=attribute)
            self._feed.publish(topic, [event])

    def forget(self, topic):
        self._topics.discard(topic)

    def trouble(self, topic):
        return "a clock: it stands still" if self._left[topic].name == "broken" else ""

    def note(self, topic):
        return "counted in one thread"

    def settled(self):
        return not any(thread.is_alive() for thread in self._left.values())

    def stop(self):
        STOPPED.append(self)


class Count(Source):
    def __init__(self, text):
        self._name, _, most = text.removeprefix("count://").partition("/")
        if not most.isdecimal():
            raise mt.InvalidName(f"{text!r} must be count://name/most")
        self.most = int(most)

    @property
    def url(self):
        return f"count://{self._name}/{self.most}"

    def topic_names(self, others=()):
        return [self._name]

    def check(self):
        if self.most > 1000:
            raise mt.InvalidName("nobody counts so far")

    def feeder(self, feed):
        return Counter(feed)

    def findings(self, about, note=""):
        yield Finding("info", about, "count", f"counts to {self.most}; {note}", "none")


class Remembering:
    """A broker around another one."""

    def __init__(self, inner):
        self._inner, self.topics = inner, []

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def publish(self, topic, events, unit=None):
        self.topics.append(topic)
        return self._inner.publish(topic, events, unit)


def remembered(url, *, size=None):
    parts = embedded(*store_at("memory://"))

    def broker_of(registry, clock, worker_id):
        broker, outside = parts.broker_of(registry, clock, worker_id)
        return Remembering(broker), outside

    return Parts(parts.store, parts.wakeup, url, broker_of)
'''
_ENTRY_POINTS = """
[mltrigger.sources]
count = counting_for_mltrigger:Count
broken = counting_for_mltrigger:Nothing

[mltrigger.brokers]
remembered = counting_for_mltrigger:remembered
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Another package, installed: its module and its entry points."""
    (tmp_path / "counting_for_mltrigger.py").write_text(_PACKAGE)
    info = tmp_path / "counting_for_mltrigger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: counting\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(_ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    entry_points.cache_clear()
    yield importlib.import_module("counting_for_mltrigger")
    entry_points.cache_clear()
    sys.modules.pop("counting_for_mltrigger", None)


def test_a_source_of_another_package_feeds_its_topic(package: Any) -> None:
    with mt.connect("memory://") as bus:
        sub = bus.subscribe("count://numbers/3", abs)

        assert bus.wait(timeout_s=20, progress=False)
        assert sub.topic == "numbers"
        assert sorted(sub.results()["output"]) == [0, 1, 2]
        assert bus.topics()["watches"].tolist() == ["numbers/3"]
        assert "counts to 3; counted in one thread" in bus.doctor("abs")["finding"].tolist()
    assert len(package.STOPPED) == 1


def test_a_source_of_another_package_goes_on_where_it_was(package: Any, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bus.db'}"
    with mt.connect(url) as bus:
        bus.subscribe("count://numbers/3", abs)
        assert bus.wait(timeout_s=20, progress=False)
    with mt.connect(url) as bus:
        sub = bus.subscribe("count://numbers/3", abs)
        assert bus.wait(timeout_s=20, progress=False)

        assert len(bus.events()) == len(sub.invocations()) == 3


def test_a_feeder_says_what_its_topic_waits_for(package: Any) -> None:
    with mt.connect("memory://") as bus:
        sub = bus.subscribe("count://numbers/1", abs)
        assert bus.wait(timeout_s=20, progress=False)
        feeder = bus._engine.feeders._fed["numbers"].feeder
        feeder._left["numbers"].name = "broken"

        assert sub.state == "waiting for a clock: it stands still"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("count://numbers", "must be count://name/most"),
        ("count://numbers/1001", "nobody counts so far"),
        ("broken://numbers", "'broken': counting_for_mltrigger:Nothing cannot be loaded"),
    ],
)
def test_a_source_that_is_refused_makes_nothing(package: Any, text: str, message: str) -> None:
    with mt.connect("memory://") as bus:
        with pytest.raises(mt.InvalidName, match=message):
            bus.subscribe(text, abs)

        assert bus.topics().empty
        assert bus.models().empty


def test_a_source_whose_package_is_broken_is_still_listed(package: Any) -> None:
    assert shown({"a": "broken://host/numbers", "b": "count://numbers/3"}) == {
        "a": "host/numbers",
        "b": "numbers/3",
    }


def test_a_broker_of_another_package_is_opened_by_its_url(package: Any) -> None:
    with mt.connect("remembered://here", size=3) as bus:
        sub = bus.subscribe("numbers", abs)
        bus.fire("numbers", [-1, 2], progress=False)

        assert sub.results()["output"].tolist() == [1, 2]
        assert bus.broker.topics == ["numbers"]
        assert "remembered://here" in repr(bus)


def test_an_option_that_the_broker_does_not_know_is_answered_with_the_near_ones(
    package: Any,
) -> None:
    with pytest.raises(mt.NotFound, match="did you mean 'size'"):
        mt.connect("remembered://here", sise=3)
    with pytest.raises(mt.NotFound, match="belong to aws://region/prefix"):
        mt.connect("memory://", bucket="payloads")
    with pytest.raises(mt.NotFound, match="did you mean 'profile'"):
        mt.connect("aws://eu-west-1/acme", profil="acme")


@pytest.mark.parametrize(
    ("text", "scheme"),
    [
        ("pages", ""),
        ("pages.fifo", ""),
        ("a:b", ""),
        ("file:scans", "file"),
        ("FILE:///scans", "file"),
        ("scans/*.png", "file"),
        ("*.png", "file"),
        (".", "file"),
        ("~", "file"),
        (r"C:\scans", "file"),
        (Path("scans"), "file"),
        ("s3://bucket/x", "s3"),
        ("arn:aws:sqs:eu-west-1:1:q", "arn"),
        ("table+sqlite:///x.db?table=t", "table+sqlite"),
        ("every://10s", "every"),
    ],
)
def test_the_scheme_of_a_source_is_read_from_its_text(text: Any, scheme: str) -> None:
    assert scheme_of(text) == scheme


def test_only_a_named_adapter_is_imported() -> None:
    assert "file" in SOURCES
    assert source_at("pages") is None
    with pytest.raises(mt.NotFound, match="no source 'fil'; did you mean 'file'"):
        SOURCES.load("fil")
