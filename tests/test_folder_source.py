"""The watched folder: every file is an event, once; and nothing outside the folder can ever be opened."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import is_settled, outcomes, wait_until

import mltrigger as mt
from mltrigger.sources import SETTLE_S, FolderSource

NOW_S = 1_790_000_000.0


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    return folder


def put(folder: Path, name: str, content: bytes = b"page", modified_s: float = NOW_S - 60) -> Path:
    """Write a file that has been lying there for a minute."""
    path = folder / name
    path.write_bytes(content)
    os.utime(path, (modified_s, modified_s))
    return path


def source(folder: Path, pattern: str = "*.png") -> FolderSource:
    return FolderSource(f"file://{folder}/{pattern}")


def look(source: FolderSource, now_s: float = NOW_S) -> list[str]:
    """Look, and remember what was found as published; return the names."""
    events = source.look("scans", now_s)
    source.taken(events)
    return [event.data["name"] for event in events]


# -- looking ------------------------------------------------------------------------------------------------------------------


def test_files_that_are_there_are_events_in_the_order_of_their_names(scans: Path) -> None:
    for name in ("b.png", "a.png", "c.png"):
        put(scans, name)

    (first, *rest) = source(scans).look("scans", NOW_S)

    assert (first.subject, [e.subject for e in rest]) == ("a.png", ["b.png", "c.png"])
    assert (first.type, first.source) == ("mltrigger.file.created", "mltrigger/files/scans")
    assert (first.data["name"], first.data["size"]) == ("a.png", 4)
    assert first.time.timestamp() == NOW_S - 60


def test_each_file_is_announced_once(scans: Path) -> None:
    put(scans, "a.png")
    folder = source(scans)

    assert [look(folder), look(folder), look(folder, NOW_S + 3600)] == [["a.png"], [], []]


def test_file_whose_publication_failed_is_announced_again(scans: Path) -> None:
    put(scans, "a.png")
    folder = source(scans)
    folder.look("scans", NOW_S)  # and the broker did not answer

    assert look(folder, NOW_S + 5) == ["a.png"]


def test_new_file_is_announced_beside_the_old_ones(scans: Path) -> None:
    put(scans, "a.png")
    folder = source(scans)
    look(folder)

    put(scans, "b.png", modified_s=NOW_S)

    assert look(folder, NOW_S + 5) == ["b.png"]


def test_file_has_the_same_identity_for_everybody_who_looks(scans: Path) -> None:
    put(scans, "a.png")

    (mine,), (theirs,) = source(scans).look("scans", NOW_S), source(scans).look("scans", NOW_S + 100)

    assert (mine.id, mine.source) == (theirs.id, theirs.source)


def test_file_that_was_replaced_is_a_new_event(scans: Path) -> None:
    put(scans, "a.png")
    folder = source(scans)
    (before,) = folder.look("scans", NOW_S)
    folder.taken([before])

    put(scans, "a.png", b"other", modified_s=NOW_S + 1)
    (after,) = folder.look("scans", NOW_S + 10)

    assert after.subject == before.subject
    assert after.id != before.id


def test_file_that_is_still_being_written_is_not_announced_until_it_rests(scans: Path) -> None:
    folder = source(scans)
    path = put(scans, "a.png", b"half", modified_s=NOW_S)
    assert look(folder, NOW_S + 0.1) == []

    path.write_bytes(b"half and half")
    os.utime(path, (NOW_S + 0.2, NOW_S + 0.2))
    assert look(folder, NOW_S + 0.4) == []

    (event,) = folder.look("scans", NOW_S + 0.2 + SETTLE_S + 0.01)
    assert event.data["size"] == len(b"half and half")


def test_file_that_rests_while_another_is_written_is_announced(scans: Path) -> None:
    put(scans, "whole.png")
    put(scans, "half.png", modified_s=NOW_S)

    folder = source(scans)

    assert look(folder, NOW_S + 0.1) == ["whole.png"]
    assert look(folder, NOW_S + 1) == ["half.png"]


def test_hidden_files_other_names_folders_and_links_are_not_announced(scans: Path, tmp_path: Path) -> None:
    put(scans, "page.png")
    put(scans, ".hidden.png")
    put(scans, "notes.txt")
    put(scans, "PAGE.PNG")
    (scans / "folder.png").mkdir()
    put(tmp_path, "outside.png")
    (scans / "link.png").symlink_to(tmp_path / "outside.png")
    (scans / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(scans / "pipe.png")

    assert look(source(scans)) == ["page.png"]


def test_file_that_goes_away_while_we_look_is_no_error(scans: Path) -> None:
    path = put(scans, "a.png")
    folder = source(scans)
    path.unlink()

    assert look(folder) == []


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*", ["a.png", "b.txt", "page1.png"]),
        ("", ["a.png", "b.txt", "page1.png"]),
        ("*.png", ["a.png", "page1.png"]),
        ("page?.png", ["page1.png"]),
        ("[ab].*", ["a.png", "b.txt"]),
        ("a.png", ["a.png"]),
    ],
)
def test_pattern_chooses_the_files(scans: Path, pattern: str, names: list[str]) -> None:
    for name in ("a.png", "b.txt", "page1.png"):
        put(scans, name)

    chosen = source(scans, pattern)

    assert look(chosen) == names
    assert look(FolderSource(chosen.url)) == names  # as the registry gives it back


def test_folder_with_blanks_and_special_characters_is_found_again_by_its_url(tmp_path: Path) -> None:
    folder = tmp_path / "my scans % 100#1"
    folder.mkdir()
    put(folder, "a b.png")
    url = folder.as_uri() + "/*.png"

    first = FolderSource(url)

    assert look(first) == look(FolderSource(first.url)) == ["a b.png"]
    assert first.topic_name == "my-scans-100-1"


def test_url_may_be_relative_to_the_working_directory(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(scans, "a.png")
    monkeypatch.chdir(scans.parent)

    assert look(FolderSource("file:scans/*.png")) == ["a.png"]
    assert FolderSource("file:scans/*.png").url == source(scans).url


@pytest.mark.parametrize("url", ["file://host/scans/*.png", "file:///", "file:", "https://example.com/*.png"])
def test_url_that_names_no_folder_here_is_refused(url: str) -> None:
    with pytest.raises(mt.InvalidName, match="must be file:///folder/pattern"):
        FolderSource(url)


def test_folder_that_does_not_exist_is_refused_by_its_name_only(tmp_path: Path) -> None:
    with pytest.raises(mt.InvalidName, match="source folder 'missing' does not exist: create it") as refused:
        source(tmp_path / "missing")

    assert str(tmp_path) not in str(refused.value)


# -- opening ------------------------------------------------------------------------------------------------------------------


def announced(name: str) -> mt.Event:
    return mt.Event({"name": name}, subject=name)


def test_event_opens_its_file(scans: Path) -> None:
    put(scans, "a.png", b"\x89PNG page")
    folder = source(scans)
    (event,) = folder.look("scans", NOW_S)

    with folder.prepare(event).open() as file:
        assert file.read() == b"\x89PNG page"


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "/etc/passwd", "/tmp/secret.png", "sub/secret.png", "..", ".", "a\x00.png", "\x00", "..\\secret.png", "./a.png"],
    ids=repr,
)
def test_event_that_names_something_outside_opens_nothing(scans: Path, name: str) -> None:
    put(scans.parent, "secret.png", b"secret")
    (scans / "sub").mkdir()
    put(scans / "sub", "secret.png", b"secret")
    put(scans, "a.png")

    with pytest.raises(mt.InvalidEvent, match="is not the name of a file in the watched folder") as refused:
        source(scans, "*").prepare(announced(name)).open()

    assert refused.value.reason == "nothing_to_open"
    assert str(scans) not in str(refused.value)


def test_event_without_a_subject_opens_nothing(scans: Path) -> None:
    with pytest.raises(mt.InvalidEvent):
        source(scans).prepare(mt.Event(1)).open()


def test_event_opens_only_what_its_source_would_announce(scans: Path) -> None:
    put(scans, "notes.txt", b"secret")
    put(scans, ".hidden.png", b"secret")

    for name in ("notes.txt", ".hidden.png"):
        with pytest.raises(mt.InvalidEvent):
            source(scans).prepare(announced(name)).open()


def test_event_opens_no_link(scans: Path, tmp_path: Path) -> None:
    put(tmp_path, "outside.png", b"secret")
    (scans / "link.png").symlink_to(tmp_path / "outside.png")

    with pytest.raises(OSError, match="watched folder") as refused:
        source(scans).prepare(announced("link.png")).open()

    assert str(tmp_path) not in str(refused.value)


def test_event_opens_no_folder_and_waits_for_no_pipe(scans: Path) -> None:
    (scans / "folder.png").mkdir()
    os.mkfifo(scans / "pipe.png")

    for name in ("folder.png", "pipe.png"):
        with pytest.raises(mt.InvalidEvent, match="not a regular file"):
            source(scans).prepare(announced(name)).open()


def test_file_that_has_gone_since_is_file_not_found_without_an_absolute_path(scans: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"'a\.png' in the watched folder") as gone:
        source(scans).prepare(announced("a.png")).open()

    assert str(scans) not in str(gone.value)


def test_event_of_a_plain_topic_opens_nothing() -> None:
    with pytest.raises(mt.InvalidEvent, match="announces no object") as refused:
        mt.Event(1, subject="a.png").open()

    assert refused.value.reason == "nothing_to_open"


# -- on a bus -----------------------------------------------------------------------------------------------------------------


def put_now(folder: Path, name: str, content: bytes = b"page", age_s: float = 10) -> Path:
    """Move a file into the folder whole, as a scanner should."""
    return put(folder.parent, f"{name}.part", content, modified_s=time.time() - age_s).replace(folder / name)


def read(event: mt.Event) -> str:
    with event.open() as file:
        return file.read().decode()


@pytest.fixture
def bus(file: Path) -> Iterator[mt.EventBus]:
    with mt.connect(f"sqlite:///{file}") as bus:
        yield bus


def subjects(bus: mt.EventBus, topic: str = "scans") -> list[str]:
    return list(bus.events(topic)["subject"])


def handled(sub: mt.Subscription, count: int) -> None:
    wait_until(lambda: len(sub.invocations(columns=["outcome"])) >= count and is_settled(sub))


def test_files_that_were_there_and_new_ones_are_handled_once_each(bus: mt.EventBus, scans: Path) -> None:
    put_now(scans, "a.png", b"A")
    put_now(scans, "b.png", b"B")

    sub = bus.subscribe(f"file://{scans}/*.png", read)
    handled(sub, 2)
    put_now(scans, "c.png", b"C")
    handled(sub, 3)

    assert subjects(bus) == ["a.png", "b.png", "c.png"]
    assert sorted(sub.invocations()["output"]) == ['"A"', '"B"', '"C"']
    assert outcomes(sub) == ["succeeded"] * 3


def test_files_are_not_repeated_after_a_restart(file: Path, scans: Path) -> None:
    url = f"file://{scans}/*.png"
    put_now(scans, "a.png")
    with mt.connect(f"sqlite:///{file}") as before:
        handled(before.subscribe(url, read), 1)
    put_now(scans, "b.png")  # while nobody looked

    with mt.connect(f"sqlite:///{file}") as after:
        sub = after.subscribe(url, read)
        handled(sub, 2)

        assert subjects(after) == ["a.png", "b.png"]
        assert outcomes(sub) == ["succeeded"] * 2


def test_folder_is_watched_again_by_a_subscription_that_is_only_started(file: Path, scans: Path) -> None:
    with mt.connect(f"sqlite:///{file}") as before:
        before.subscribe(f"file://{scans}/*.png", read)
    put_now(scans, "a.png", b"A")

    with mt.connect(f"sqlite:///{file}") as after:
        handled(after.subscription("read").start(), 1)

        assert list(after.invocations()["output"]) == ['"A"']


def test_replaced_file_is_handled_again(bus: mt.EventBus, scans: Path) -> None:
    put_now(scans, "a.png", b"first")
    sub = bus.subscribe(f"file://{scans}/*.png", read)
    handled(sub, 1)

    put_now(scans, "a.png", b"second", age_s=5)
    handled(sub, 2)

    assert list(sub.invocations()["output"]) == ['"first"', '"second"']


def test_second_subscription_of_the_same_folder_gets_all_files(bus: mt.EventBus, scans: Path) -> None:
    put_now(scans, "a.png", b"A")
    first = bus.subscribe(f"file://{scans}/*.png", read)
    handled(first, 1)

    second = bus.subscribe(f"file://{scans}/*.png", mt.model(lambda found: found["name"], name="names"))
    handled(second, 1)
    put_now(scans, "b.png", b"B")
    handled(first, 2)
    handled(second, 2)

    assert first.topic == second.topic
    assert list(second.invocations()["output"]) == ['"a.png"', '"b.png"']
    assert subjects(bus) == ["a.png", "b.png"]


def test_two_processes_that_watch_the_same_folder_handle_each_file_once(bus: mt.EventBus, file: Path, scans: Path) -> None:
    url = f"file://{scans}/*.png"
    with mt.connect(f"sqlite:///{file}") as other:
        subs = [bus.subscribe(url, read), other.subscribe(url, read)]
        for name in ("a.png", "b.png", "c.png"):
            put_now(scans, name)
        handled(subs[0], 3)
        put_now(scans, "last.png")
        handled(subs[0], 4)

    assert sorted(subjects(bus)) == ["a.png", "b.png", "c.png", "last.png"]
    assert len(bus.invocations()) == 4


def test_start_latest_leaves_out_what_is_in_the_archive(bus: mt.EventBus, scans: Path) -> None:
    put_now(scans, "a.png", b"A")
    url = f"file://{scans}/*.png"
    handled(bus.subscribe(url, read), 1)

    later = bus.subscribe(url, mt.model(read, name="later"), start="latest")
    put_now(scans, "b.png", b"B")
    handled(later, 1)

    assert list(later.invocations()["output"]) == ['"B"']


def test_folders_of_the_same_name_have_topics_of_their_own(bus: mt.EventBus, tmp_path: Path) -> None:
    folders = [tmp_path / "north" / "scans", tmp_path / "south" / "scans"]
    for folder in folders:
        folder.mkdir(parents=True)

    subs = [bus.subscribe(f"file://{folder}/*", read, name=folder.parent.name) for folder in folders]

    assert [sub.topic for sub in subs] == ["scans", "scans-2"]


def test_forged_event_on_the_topic_of_a_folder_opens_nothing_outside(bus: mt.EventBus, scans: Path) -> None:
    put_now(scans.parent, "secret.png", b"secret")
    sub = bus.subscribe(f"file://{scans}/*.png", read, max_attempts=1)

    bus.publish("scans", {"name": "../secret.png"}, subject="../secret.png")
    handled(sub, 1)

    row = sub.invocations().iloc[0]
    assert (row["outcome"], row["error_type"]) == ("dead", "InvalidEvent")
    assert "secret" not in str(row["output"])


def test_nothing_that_is_shown_holds_an_absolute_path(bus: mt.EventBus, scans: Path, tmp_path: Path) -> None:
    gone = put_now(scans, "gone.png")
    put_now(scans, "a.png")
    url = f"file://{scans}/*.png"
    sub = bus.subscribe(url, read, max_attempts=1, listen=False)
    bus.subscribe(url, mt.model(lambda found: found["name"], name="watches"))
    wait_until(lambda: len(bus.events("scans")) == 2)
    gone.unlink()
    sub.start()
    handled(sub, 2)

    assert sorted(outcomes(sub)) == ["dead", "succeeded"]
    shown = [repr(x) for x in (bus, sub, bus.subscription("read"))] + [x._repr_html_() for x in (bus, sub)]
    tables = [bus.topics(), bus.subscriptions(), bus.events(), bus.invocations(), bus.models(), sub.dead_letters(), sub.results()]
    shown += [table.to_csv() for table in tables]
    for text in shown:
        assert str(tmp_path) not in text
    assert list(bus.topics()["watches"]) == ["scans/*.png"]
