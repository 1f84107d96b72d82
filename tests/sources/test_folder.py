"""The watched folder: every new content is an event, once; and nothing outside the folder can ever
be opened.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from shared import is_settled, outcomes, wait_until

import mltrigger as mt
from mltrigger.sources.folder.source import FolderSource
from mltrigger.sources.folder.watch import FolderWatch

WRITTEN_S = 1_790_000_000.0
SETTLE_S = 0.25  # a number that adds up


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    return folder


def put(folder: Path, name: str, content: bytes = b"page", modified_s: float = WRITTEN_S) -> Path:
    """Write a file with a time of its own; the watch does not care for it."""
    path = folder / name
    path.write_bytes(content)
    os.utime(path, (modified_s, modified_s))
    return path


def source(folder: Path, pattern: str = "*.png") -> FolderSource:
    return FolderSource(f"file://{folder}/{pattern}")


class Looker:
    """Watches a folder on a clock that stands still, with a log that is a list; several may share
    the log.
    """

    def __init__(
        self,
        source: FolderSource,
        log: list[tuple[int, str | None, Any]] | None = None,
        settle_s: float = SETTLE_S,
    ) -> None:
        self.log = [] if log is None else log
        self.now_s = 0.0
        self.watch = FolderWatch(
            source, "scans", lambda after: [row for row in self.log if row[0] > after], settle_s
        )

    def look(self, *, publish: bool = True) -> list[mt.Event]:
        """Look now; what is found is published."""
        events = self.watch.look(self.now_s)
        if publish:
            self.log += [
                (len(self.log) + n, event.subject, event.data) for n, event in enumerate(events, 1)
            ]
            self.watch.taken(events)
        return events

    def found(self) -> list[str]:
        """Return the names of what is published once the files have rested."""
        events = self.look()
        self.now_s += SETTLE_S
        return [event.data["name"] for event in [*events, *self.look()]]


# -- looking ---------------------------------------------------------------------------------------


def test_files_that_are_there_are_events_in_the_order_of_their_names(scans: Path) -> None:
    for name in ("b.png", "a.png", "c.png"):
        put(scans, name)
    looker = Looker(source(scans))
    looker.look()
    looker.now_s += SETTLE_S

    first, *rest = looker.look()

    assert (first.subject, [e.subject for e in rest]) == ("a.png", ["b.png", "c.png"])
    assert (first.type, first.source) == ("mltrigger.file.created", "mltrigger/files/scans")
    assert (first.data["name"], first.data["size"]) == ("a.png", 4)
    assert first.time.timestamp() == WRITTEN_S


def test_each_file_is_announced_once(scans: Path) -> None:
    put(scans, "a.png")
    looker = Looker(source(scans))

    assert [looker.found(), looker.found(), looker.found()] == [["a.png"], [], []]


def test_file_whose_publication_failed_is_announced_again(scans: Path) -> None:
    put(scans, "a.png")
    looker = Looker(source(scans))
    looker.look()
    looker.now_s += SETTLE_S
    assert looker.look(publish=False), "and the broker did not answer"

    assert not looker.watch.settled
    assert looker.found() == ["a.png"]


def test_new_file_is_announced_beside_the_old_ones(scans: Path) -> None:
    put(scans, "a.png")
    looker = Looker(source(scans))
    looker.found()

    put(scans, "b.png")

    assert looker.found() == ["b.png"]


def test_file_has_the_same_identity_for_everybody_who_looks(scans: Path) -> None:
    put(scans, "a.png")
    mine, theirs = Looker(source(scans)), Looker(source(scans))
    assert mine.found() == theirs.found() == ["a.png"]

    assert mine.log[0][2] == theirs.log[0][2]


@pytest.mark.parametrize(
    "ahead_s", [-3600.0, 0.0, 10.0, 400 * 24 * 3600.0], ids=lambda s: f"{s:+g}s"
)
def test_file_is_complete_when_two_looks_saw_the_same_whatever_its_clock_says(
    scans: Path, ahead_s: float
) -> None:
    looker = Looker(source(scans))
    written_s = time.time() + ahead_s
    path = put(scans, "a.png", b"half", written_s)
    looker.look()
    looker.now_s += SETTLE_S
    path.write_bytes(b"half and half")  # while the writer paused, somebody else's clock stood still
    os.utime(path, (written_s, written_s))

    assert looker.look() == []
    looker.now_s += SETTLE_S
    assert [event.data["size"] for event in looker.look()] == [len(b"half and half")]


def test_file_that_is_still_being_written_rests_as_long_as_was_agreed(scans: Path) -> None:
    looker = Looker(source(scans), settle_s=5.0)
    path = put(scans, "a.png", b"1")
    for length in range(2, 5):
        looker.now_s += 4.9
        assert looker.look() == []
        path.write_bytes(b"1" * length)
    looker.look()

    looker.now_s += 5.0

    assert [event.data["size"] for event in looker.look()] == [4]


def test_file_is_taken_at_once_where_nothing_has_to_rest(scans: Path) -> None:
    put(scans, "a.png")

    assert len(Looker(source(scans), settle_s=0).look()) == 1


def test_file_that_rests_while_another_is_written_is_announced(scans: Path) -> None:
    put(scans, "whole.png")
    looker = Looker(source(scans))
    looker.look()
    put(scans, "half.png")
    looker.look()
    looker.now_s += SETTLE_S / 2
    put(scans, "half.png", b"half and half")
    looker.look()
    looker.now_s += SETTLE_S / 2

    assert [event.subject for event in looker.look()] == ["whole.png"]
    assert looker.found() == ["half.png"]


def test_hidden_files_other_names_folders_and_links_out_are_not_announced(
    scans: Path, tmp_path: Path
) -> None:
    put(scans, "page.png")
    put(scans, ".hidden.png")
    put(scans, "notes.txt")
    (scans / "folder.png").mkdir()
    put(tmp_path, "outside.png")
    (scans / "link.png").symlink_to(tmp_path / "outside.png")
    (scans / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    (scans / "loop.png").symlink_to("loop.png")
    os.mkfifo(scans / "pipe.png")

    assert Looker(source(scans)).found() == ["page.png"]


def test_link_to_a_file_in_the_folder_is_announced_and_follows_its_content(scans: Path) -> None:
    put(scans, "page.png", b"first")
    (scans / "latest.png").symlink_to("page.png")
    looker = Looker(source(scans))
    assert looker.found() == ["latest.png", "page.png"]

    put(scans, "page.png", b"second")

    assert looker.found() == ["latest.png", "page.png"]


@pytest.mark.parametrize(
    "name",
    [
        "with blank.png",
        "a#b.png",
        "100%.png",
        "-rf.png",
        "a\nb.png",
        "a?b*.png",
        "日本.png",
        "a'\"<b>.png",
        "\x1b[1m.png",
    ],
)
def test_file_with_an_odd_name_is_an_event_that_opens_it(scans: Path, name: str) -> None:
    put(scans, name, b"odd")
    looker = Looker(source(scans))

    assert looker.found() == [name]
    event = mt.Event(looker.log[0][2], subject=name)
    with looker.watch.source.prepare(event).open() as file:
        assert file.read() == b"odd"


def test_file_that_goes_away_while_we_look_is_no_error(scans: Path) -> None:
    path = put(scans, "a.png")
    looker = Looker(source(scans))
    looker.look()
    path.unlink()
    looker.now_s += SETTLE_S

    assert looker.look() == [] and looker.watch.settled


# -- the same file, and another one ----------------------------------------------------------------


@pytest.fixture
def seen(scans: Path) -> Looker:
    """A looker that has announced a.png."""
    put(scans, "a.png", b"price 10")
    looker = Looker(source(scans))
    assert looker.found() == ["a.png"]
    return looker


def rewrite(path: Path, content: bytes) -> None:
    """Write into the same file, and set its time back."""
    before_ns = path.stat().st_ctime_ns
    path.write_bytes(content)
    os.utime(path, (WRITTEN_S, WRITTEN_S))
    # the kernel's clock ticks every few milliseconds; no file rests for less
    while path.stat().st_ctime_ns == before_ns:
        os.utime(path, (WRITTEN_S, WRITTEN_S))


def replace(path: Path, content: bytes) -> None:
    """Move another file over it, of the same time."""
    put(path.parent.parent, "new", content).replace(path)


def remove_and_write(path: Path, content: bytes) -> None:
    path.unlink()
    put(path.parent, path.name, content)


@pytest.mark.parametrize("how", [rewrite, replace, remove_and_write], ids=lambda how: how.__name__)
def test_other_content_of_the_same_name_size_and_time_is_a_new_event(
    seen: Looker, scans: Path, how: Any
) -> None:
    how(scans / "a.png", b"price 25")
    assert seen.found() == ["a.png"]

    how(scans / "a.png", b"price 10")  # and back: the newest event says what is there
    assert seen.found() == ["a.png"]

    assert len({event["changed_ns"] for _, _, event in seen.log}) == 3


def touch(path: Path) -> None:
    os.utime(path)


def chmod(path: Path) -> None:
    path.chmod(0o600)
    path.chmod(0o640)


def hard_link(path: Path) -> None:
    os.link(path, path.parent / "another.txt")


def write_the_same(path: Path) -> None:
    path.write_bytes(path.read_bytes())


def restore(path: Path) -> None:
    """Another inode with the same content and time, as a backup brings it."""
    shutil.copy2(path, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


UNCHANGED = pytest.mark.parametrize(
    "how", [touch, chmod, hard_link, write_the_same, restore], ids=lambda how: how.__name__
)


@UNCHANGED
def test_new_time_mode_link_or_inode_of_the_same_content_is_no_event(
    seen: Looker, scans: Path, how: Any
) -> None:
    how(scans / "a.png")

    assert seen.found() == []


@UNCHANGED
def test_nor_is_it_one_for_a_process_that_begins_later(seen: Looker, scans: Path, how: Any) -> None:
    how(scans / "a.png")

    assert Looker(source(scans), seen.log).found() == []


def test_other_content_written_while_nobody_looked_is_a_new_event(
    seen: Looker, scans: Path
) -> None:
    rewrite(scans / "a.png", b"price 25")

    assert Looker(source(scans), seen.log).found() == ["a.png"]


def test_what_another_process_announced_meanwhile_is_not_announced_again(
    seen: Looker, scans: Path
) -> None:
    other = Looker(source(scans), seen.log)
    put(scans, "b.png")

    assert seen.found() == ["b.png"]
    chmod(scans / "b.png")
    assert other.found() == []


def test_what_an_older_release_announced_is_not_announced_again(scans: Path) -> None:
    path = put(scans, "a.png", b"price 10")
    old = {"name": "a.png", "size": 8, "modified_ns": path.stat().st_mtime_ns}
    looker = Looker(source(scans), [(1, "a.png", old)])
    assert looker.found() == []

    chmod(path)
    assert looker.found() == []
    rewrite(path, b"price 25")
    assert looker.found() == ["a.png"]


def test_file_that_had_gone_and_comes_back_later_is_a_new_event(seen: Looker, scans: Path) -> None:
    (scans / "a.png").unlink()
    assert seen.found() == []

    put(scans, "a.png", b"price 10", WRITTEN_S + 60)

    assert seen.found() == ["a.png"]


def test_folder_that_is_empty_for_a_while_announces_nothing_twice(
    seen: Looker, scans: Path
) -> None:
    mounted = scans.rename(scans.parent / "mounted")
    scans.mkdir()  # what lies below a disk that is not mounted
    assert seen.found() == []
    scans.rmdir()
    mounted.rename(scans)

    assert seen.found() == []


def test_large_file_is_compared_by_samples_and_its_time(
    scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mltrigger.sources.folder.identity.WHOLE_BYTES", 1 << 20)
    path = put(scans, "a.png", bytes(3 << 20))
    looker = Looker(source(scans))
    assert looker.found() == ["a.png"]

    path.chmod(0o600)
    assert looker.found() == []
    rewrite(path, bytes([1]) * (3 << 20))
    assert looker.found() == ["a.png"]
    os.utime(path, (WRITTEN_S + 1, WRITTEN_S + 1))
    assert looker.found() == ["a.png"]


def test_time_that_no_calendar_has_silences_nobody(scans: Path) -> None:
    put(scans, "a.png")
    os.utime(scans / "a.png", ns=(0, -(2**62)))
    put(scans, "b.png")

    assert Looker(source(scans)).found() == ["a.png", "b.png"]


# -- patterns and places ---------------------------------------------------------------------------

TREE = (
    "A.PNG",
    "a.png",
    "b.txt",
    "page1.png",
    "x.tar.gz",
    "2026/deep.png",
    "2026/11/deeper.PNG",
    "2026/.hidden/c.png",
    ".git/d.png",
)


@pytest.fixture
def tree(scans: Path) -> Path:
    for name in TREE:
        (scans / name).parent.mkdir(parents=True, exist_ok=True)
        put(scans, name)
    return scans


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*", ["A.PNG", "a.png", "b.txt", "page1.png", "x.tar.gz"]),
        ("", ["A.PNG", "a.png", "b.txt", "page1.png", "x.tar.gz"]),
        ("*.png", ["A.PNG", "a.png", "page1.png"]),
        ("*.PNG", ["A.PNG", "a.png", "page1.png"]),
        ("*.[pt][nx][gt]", ["A.PNG", "a.png", "b.txt", "page1.png"]),
        ("page?.png", ["page1.png"]),
        ("PAGE*.png", []),
        ("[ab].*", ["a.png", "b.txt"]),
        ("[!a]*.png", ["A.PNG", "page1.png"]),
        ("a.png", ["a.png"]),
        ("*.{png,txt}", ["A.PNG", "a.png", "b.txt", "page1.png"]),
        ("{a,page{1,2}}.{png,gif}", ["a.png", "page1.png"]),
        ("*{.tar.gz,.txt}", ["b.txt", "x.tar.gz"]),
        ("**/*.png", ["2026/11/deeper.PNG", "2026/deep.png", "A.PNG", "a.png", "page1.png"]),
        ("2026/**/*.png", ["11/deeper.PNG", "deep.png"]),  # its folder is 2026
        ("20*/*.png", ["2026/deep.png"]),
        ("*/11/*.png", ["2026/11/deeper.PNG"]),
        ("**/deep*", ["2026/11/deeper.PNG", "2026/deep.png"]),
        (
            "**",
            [
                "2026/11/deeper.PNG",
                "2026/deep.png",
                "A.PNG",
                "a.png",
                "b.txt",
                "page1.png",
                "x.tar.gz",
            ],
        ),
    ],
)
def test_pattern_chooses_the_files(tree: Path, pattern: str, names: list[str]) -> None:
    chosen = source(tree, pattern)

    assert Looker(chosen).found() == names
    assert Looker(FolderSource(chosen.url)).found() == names  # as the registry gives it back


@pytest.mark.parametrize(
    "pattern",
    ["*.png,*.jpg", "*.csv,*.CSV", "*.png;*.jpg", "*.png | *.jpg", "*.png, jpg", "*.png *.jpg"],
)
def test_several_patterns_in_one_are_refused_with_the_way_out(scans: Path, pattern: str) -> None:
    with pytest.raises(
        mt.InvalidName, match=r"write them as one, such as \*\.\{(png,jpg|csv,CSV)\}"
    ):
        source(scans, pattern)


@pytest.mark.parametrize(
    ("pattern", "words"), [("{1..3}.png", r"\{1,2,3\}"), ("{a,b}" * 9, "more than 256")]
)
def test_pattern_that_cannot_be_meant_is_refused(scans: Path, pattern: str, words: str) -> None:
    with pytest.raises(mt.InvalidName, match=words):
        source(scans, pattern)


@pytest.mark.parametrize("name", ["my scans % 100#1", "a[1]", "what?", "{x,y}", "日本"])
def test_folder_with_special_characters_is_found_again_by_its_url(
    tmp_path: Path, name: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    put(folder, "a b.png")

    first = FolderSource(folder.as_uri() + "/*.png")

    assert Looker(first).found() == Looker(FolderSource(first.url)).found() == ["a b.png"]


def test_topic_of_a_folder_has_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "my scans % 100#1"
    folder.mkdir()

    assert source(folder).topic_names()[0] == "my-scans-100-1"


def test_folder_inside_that_is_a_link_is_not_entered(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    put(tmp_path / "elsewhere", "secret.png")
    (scans / "out").symlink_to(tmp_path / "elsewhere")
    (scans / "round").symlink_to(".")
    put(scans, "a.png")

    assert Looker(source(scans, "**/*.png")).found() == ["a.png"]


def test_new_folders_and_their_files_are_found(scans: Path) -> None:
    looker = Looker(source(scans, "**/*.png"))
    looker.found()
    (scans / "a" / "b").mkdir(parents=True)
    put(scans / "a" / "b", "new.png")
    looker.watch.glance(looker.now_s)
    looker.now_s += SETTLE_S

    assert [event.subject for event in looker.watch.glance(looker.now_s)] == ["a/b/new.png"]


@pytest.mark.parametrize(
    "url",
    [
        "file://host/scans/*.png",
        "file:///",
        "file:",
        "https://example.com/*.png",
        "file:///a%00b/*",
    ],
)
def test_url_that_names_no_folder_here_is_refused(url: str) -> None:
    with pytest.raises(mt.InvalidName, match="must be file:///folder/pattern"):
        FolderSource(url)


# -- opening ---------------------------------------------------------------------------------------


def announced(name: str) -> mt.Event:
    return mt.Event({"name": name}, subject=name)


def test_event_opens_its_file(scans: Path) -> None:
    put(scans, "a.png", b"\x89PNG page")
    folder = source(scans)
    looker = Looker(folder)
    assert looker.found() == ["a.png"]

    with folder.prepare(mt.Event(looker.log[0][2], subject="a.png")).open() as file:
        assert file.read() == b"\x89PNG page"


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "/etc/passwd",
        "/tmp/secret.png",
        "sub/secret.png",
        "..",
        ".",
        "a\x00.png",
        "\x00",
        "..\\secret.png",
        "./a.png",
    ],
    ids=repr,
)
def test_event_that_names_something_outside_opens_nothing(scans: Path, name: str) -> None:
    put(scans.parent, "secret.png", b"secret")
    (scans / "sub").mkdir()
    put(scans / "sub", "secret.png", b"secret")
    put(scans, "a.png")

    with pytest.raises(
        mt.InvalidEvent, match="is not the name of a file in the watched folder"
    ) as refused:
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


@pytest.mark.parametrize("target", ["outside.png", "scans-too/secret.png"])
def test_event_opens_no_link_that_leads_outside(scans: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "scans-too").mkdir()
    put(tmp_path, target, b"secret")
    (scans / "link.png").symlink_to(tmp_path / target)

    with pytest.raises(
        OSError, match=r"leads outside: 'link\.png' in the watched folder"
    ) as refused:
        source(scans).prepare(announced("link.png")).open()

    assert str(tmp_path) not in str(refused.value)


def test_event_opens_nothing_through_a_folder_that_became_a_link(
    scans: Path, tmp_path: Path
) -> None:
    (scans / "sub").mkdir()
    put(tmp_path, "a.png", b"secret")
    (scans / "sub").rmdir()
    (scans / "sub").symlink_to(tmp_path)

    with pytest.raises(OSError, match="leads outside"):
        source(scans, "**/*.png").prepare(announced("sub/a.png")).open()


def test_event_of_another_content_says_so_and_a_new_mode_does_not(
    scans: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = put(scans, "a.png", b"price 10")
    looker = Looker(source(scans))
    looker.found()
    event = looker.watch.source.prepare(mt.Event(looker.log[0][2], subject="a.png"))

    chmod(path)
    event.open().close()
    assert capsys.readouterr().out == ""
    rewrite(path, b"price 25")
    with event.open() as file:
        assert file.read() == b"price 25"
    assert (
        capsys.readouterr().out
        == "etag_mismatch: file a.png was replaced after the event; this is the new one\n"
    )


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


# -- on a bus --------------------------------------------------------------------------------------


def put_now(folder: Path, name: str, content: bytes = b"page") -> Path:
    """Move a file into the folder whole, as a scanner should."""
    return put(folder.parent, f"{name}.part", content).replace(folder / name)


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


def test_files_that_were_there_and_new_ones_are_handled_once_each(
    bus: mt.EventBus, scans: Path
) -> None:
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


def test_folder_is_watched_again_by_a_subscription_that_is_only_started(
    file: Path, scans: Path
) -> None:
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

    put_now(scans, "a.png", b"second")
    handled(sub, 2)

    assert list(sub.invocations()["output"]) == ['"first"', '"second"']


def test_second_subscription_of_the_same_folder_gets_all_files(
    bus: mt.EventBus, scans: Path
) -> None:
    put_now(scans, "a.png", b"A")
    first = bus.subscribe(f"file://{scans}/*.png", read)
    handled(first, 1)

    second = bus.subscribe(
        f"file://{scans}/*.png", mt.model(lambda found: found["name"], name="names")
    )
    handled(second, 1)
    put_now(scans, "b.png", b"B")
    handled(first, 2)
    handled(second, 2)

    assert first.topic == second.topic
    assert list(second.invocations()["output"]) == ['"a.png"', '"b.png"']
    assert subjects(bus) == ["a.png", "b.png"]


def test_two_processes_that_watch_the_same_folder_handle_each_file_once(
    bus: mt.EventBus, file: Path, scans: Path
) -> None:
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


def test_folders_of_the_same_name_have_topics_of_their_own(
    bus: mt.EventBus, tmp_path: Path
) -> None:
    folders = [tmp_path / "north" / "scans", tmp_path / "south" / "scans"]
    for folder in folders:
        folder.mkdir(parents=True)

    subs = [
        bus.subscribe(f"file://{folder}/*", read, name=folder.parent.name) for folder in folders
    ]

    assert [sub.topic for sub in subs] == ["scans", "south-scans"]
    assert list(bus.subscriptions()["watches"]) == ["north/scans/*", "south/scans/*"]
    assert list(bus.topics()["watches"]) == ["north/scans/*", "south/scans/*"]
    other = bus.subscribe(f"file://{folders[0]}/*.txt", read, name="texts")
    assert (other.topic, bus.topics()["watches"].iloc[-1]) == ("scans-2", "north/scans/*.txt")


def test_forged_event_on_the_topic_of_a_folder_opens_nothing_outside(
    bus: mt.EventBus, scans: Path
) -> None:
    put_now(scans.parent, "secret.png", b"secret")
    sub = bus.subscribe(f"file://{scans}/*.png", read, max_attempts=1)

    bus.publish("scans", {"name": "../secret.png"}, subject="../secret.png")
    handled(sub, 1)

    row = sub.invocations().iloc[0]
    assert (row["outcome"], row["error_type"]) == ("dead", "InvalidEvent")
    assert "secret" not in str(row["output"])


def test_nothing_that_is_shown_holds_an_absolute_path(
    bus: mt.EventBus, scans: Path, tmp_path: Path
) -> None:
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
    shown = [repr(x) for x in (bus, sub, bus.subscription("read"))] + [
        x._repr_html_() for x in (bus, sub)
    ]
    tables = [
        bus.topics(),
        bus.subscriptions(),
        bus.events(),
        bus.invocations(),
        bus.models(),
        sub.dead_letters(),
        sub.results(),
    ]
    shown += [table.to_csv() for table in tables]
    for text in shown:
        assert str(tmp_path) not in text
    assert list(bus.topics()["watches"]) == ["scans/*.png"]


def test_writer_that_pauses_is_waited_for(bus: mt.EventBus, scans: Path) -> None:
    sub = bus.subscribe(f"file://{scans}/*.png", read, settle_s=1.0)
    with (scans / "a.png").open("w") as file:
        for part in ("half", " and half"):
            file.write(part)
            file.flush()
            time.sleep(0.5)  # longer than files rest by default
    handled(sub, 1)

    assert list(sub.invocations()["output"]) == ['"half and half"']


def test_most_patient_subscription_decides_when_a_file_is_complete(
    bus: mt.EventBus, file: Path, scans: Path
) -> None:
    first = bus.subscribe(f"file://{scans}/*.png", read)
    with mt.connect(f"sqlite:///{file}") as other:
        second = other.subscribe(
            f"file://{scans}/*.png", read, name="patient", settle_s=2.0, listen=False
        )
        time.sleep(1.2)  # until the first process follows
        began_s = time.monotonic()
        put_now(scans, "a.png")
        wait_until(lambda: subjects(bus))
        took_s = time.monotonic() - began_s

    assert took_s >= 2.0 and first.topic == second.topic


@pytest.mark.parametrize("settle_s", [-1, "1", None, float("nan"), True])
def test_time_to_settle_is_a_number_of_seconds(
    bus: mt.EventBus, scans: Path, settle_s: Any
) -> None:
    with pytest.raises(mt.InvalidPolicy, match="settle_s must be from 0 to 86400"):
        bus.subscribe(f"file://{scans}/*.png", read, settle_s=settle_s)


def test_wait_looks_at_files_that_were_rewritten_in_place(bus: mt.EventBus, scans: Path) -> None:
    path = put_now(scans, "app.log", b"first")
    sub = bus.subscribe(f"file://{scans}/*.log", read)
    assert bus.wait(timeout_s=20, progress=False)
    for word in (b"again", b"third"):  # as long as the first
        path.write_bytes(word)

        assert bus.wait(timeout_s=20, progress=False)

        assert list(sub.results()["output"])[-1] == word.decode()


def test_folder_that_is_gone_silences_no_other_and_is_said(
    bus: mt.EventBus, tmp_path: Path
) -> None:
    folders = [tmp_path / name for name in ("one", "two", "three")]
    for folder in folders:
        folder.mkdir()
    one, two, three = (
        bus.subscribe(folder / "*.png", read, name=folder.name) for folder in folders
    )
    folders[1].rmdir()
    for folder in (folders[0], folders[2]):
        put_now(folder, "late.png")
    handled(one, 1)
    handled(three, 1)

    wait_until(lambda: two.state == "waiting for the folder: 'two': No such file or directory")
    (finding,) = two.doctor().query("severity == 'error'").itertuples()
    assert (finding.check, finding.finding) == (
        "folder",
        "folder 'two' cannot be read: No such file or directory; its files wait",
    )
    with pytest.warns(
        UserWarning, match=r"folder 'two/\*\.png' cannot be read \(No such file or directory\)"
    ):
        assert bus.wait(timeout_s=20, progress=False)
    assert str(tmp_path) not in bus.doctor().to_csv() + repr(two) + two._repr_html_()

    folders[1].mkdir()
    put_now(folders[1], "back.png")
    handled(two, 1)
    assert two.state == "listening"
    assert list(two.doctor()["severity"]) == ["ok"]


def test_folder_that_is_gone_at_the_start_is_waited_for(file: Path, scans: Path) -> None:
    with mt.connect(f"sqlite:///{file}") as before:
        before.subscribe(scans / "*.png", read)
    scans.rmdir()

    with mt.connect(f"sqlite:///{file}") as after:
        sub = after.subscribe(scans / "*.png", read)
        wait_until(lambda: sub.state.startswith("waiting for the folder"))
        scans.mkdir()
        put_now(scans, "a.png")
        handled(sub, 1)


def test_folder_is_forgotten_with_its_last_subscription(bus: mt.EventBus, scans: Path) -> None:
    subs = [bus.subscribe(scans, read, name=name) for name in ("first", "second")]
    subs[0].stop()
    put_now(scans, "a.png")
    handled(subs[1], 1)
    subs[1].stop()
    put_now(scans, "b.png")

    assert bus.wait(timeout_s=0.5, progress=False) is False, (
        "a.png waits for the first subscription"
    )
    assert subjects(bus) == ["a.png"]


def test_attempt_says_that_its_file_was_replaced(bus: mt.EventBus, scans: Path) -> None:
    sub = bus.subscribe(scans, read, name="read", max_attempts=1)
    apart = bus.subscribe(scans, mt.model(size_of, name="apart"), isolation="process")
    for each in (sub, apart):
        each.pause()
    path = put_now(scans, "draft.txt", b"a first draft")
    wait_until(lambda: subjects(bus) == ["draft.txt"])
    path.write_bytes(b"final")
    wait_until(lambda: subjects(bus) == ["draft.txt"] * 2)
    for each in (sub, apart):
        each.resume()
        handled(each, 2)

    for each in (sub, apart):
        said = each.invocations().sort_values("published_at")["stdout"]
        assert [str(text).startswith("etag_mismatch: file draft.txt") for text in said] == [
            True,
            False,
        ]


def size_of(event: mt.Event) -> int:
    with event.open() as file:
        return len(file.read())


def test_doctor_says_what_lies_there_and_is_no_event(
    bus: mt.EventBus, scans: Path, tmp_path: Path
) -> None:
    put_now(scans, "a.csv")
    sub = bus.subscribe(scans / "report*.csv", read)
    assert bus.wait(timeout_s=20, progress=False)
    put(tmp_path, "outside.csv")
    (scans / "2026").mkdir()
    put(scans / "2026", "report.csv")
    for name in (
        "REPORT_0007.csv",
        ".report.csv",
        "report\\1.csv",
        "report\udcff.csv",
        ".DS_Store",
    ):
        put(scans, name)
    (scans / "report-link.csv").symlink_to(tmp_path / "outside.csv")
    (scans / "report-circle.csv").symlink_to("report-circle.csv")
    os.mkfifo(scans / "report-pipe.csv")

    said = [
        f"{row.severity}: {row.finding}"
        for row in sub.doctor().query("check == 'files'").itertuples()
    ]

    assert sorted(said) == [
        "info: 1 file in 'scans' does not match 'report*.csv': 'a.csv'",
        "info: 1 folder inside 'scans', where 'report*.csv' does not match: '2026'",
        (
            "info: 1 hidden file in 'scans': '.report.csv'; a name that begins with a dot does not"
            " match"
        ),
        (
            "info: 1 pipe, socket or device in 'scans': 'report-pipe.csv'; only regular files are"
            " events"
        ),
        (
            "warning: 1 name in 'scans' would match 'report*.csv' in other upper and lower case:"
            " 'REPORT_0007.csv'"
        ),
        (
            "warning: 2 links in 'scans' to nothing, to a folder or out of it: 'report-circle.csv',"
            " 'report-link.csv'; links are followed inside only"
        ),
        r"warning: 2 names in 'scans' with a backslash or bytes that are not UTF-8:"
        r" 'report\\1.csv', 'report\udcff.csv'; "
        "no event can carry that",
    ]


@pytest.mark.parametrize(
    ("written", "watches"),
    [
        (Path("scans"), "scans/*"),
        (Path("scans/*.png"), "scans/*.png"),
        (Path("scans/**/*.{png,jpg}"), "scans/**/*.{png,jpg}"),
        (Path("scans/a.png"), "scans/a.png"),
        ("scans/", "scans/*"),
        ("./scans/*.png", "scans/*.png"),
        ("scans/*.png", "scans/*.png"),
        ("../work/scans/*.png", "scans/*.png"),
        ("~/scans/*.png", "scans/*.png"),
        ("file:scans/*.png", "scans/*.png"),
        ("file:~/scans/*.png", "scans/*.png"),
        ("FILE:scans/*.png", "scans/*.png"),
        ("*.png", "work/*.png"),
        (".", "work/*"),
    ],
    ids=repr,
)
def test_folder_is_understood_as_people_write_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str | Path, watches: str
) -> None:
    (tmp_path / "work" / "scans").mkdir(parents=True)
    for folder in (tmp_path / "work", tmp_path / "work" / "scans"):
        put(folder, "a.png", b"A")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "work"))
    with mt.connect("memory://") as bus:
        sub = bus.subscribe(written, read)
        handled(sub, 1)

        assert list(bus.subscriptions()["watches"]) == [watches]


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("C:\\scans\\*.png", "is a path of Windows; a folder is written file:"),
        ("\\\\server\\scans\\*.png", "is a path of Windows; a folder is written file:"),
        ("scans\\*.png", "is a path of Windows; a folder is written file:"),
        (
            "missing/*.png",
            (
                "source folder 'missing' does not exist: create it, then subscribe; a folder is"
                " written file:"
            ),
        ),
        (Path("missing"), "source 'missing' is neither a folder nor a file"),
        ("~nobody-here/*.png", "no home folder '~nobody-here'"),
        ("file://scans/*.png", "from the working directory it is file:scans/"),
        ("notes.txt", "topic name 'notes.txt' must be .*; a folder is written file:"),
    ],
    ids=repr,
)
def test_folder_that_cannot_be_meant_is_refused_with_how_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str | Path, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with mt.connect("memory://") as bus:
        with pytest.raises(mt.InvalidName, match=words) as refused:
            bus.subscribe(written, read)

        assert str(tmp_path) not in str(refused.value)
        assert bus.topics().empty


def test_second_source_under_a_name_says_what_the_first_was(bus: mt.EventBus, scans: Path) -> None:
    bus.subscribe(scans, read)

    with pytest.raises(
        mt.NameTaken,
        match=r"listens to 'scans' \(file:scans/\*\), not to 'scans-2' \(file:scans/\*\.png\)",
    ):
        bus.subscribe(scans / "*.png", read)


@pytest.mark.parametrize(
    "refused",
    [mt.VersionConflict, mt.NameTaken, mt.InvalidFilter, mt.InvalidPolicy, mt.InvalidName],
)
def test_subscription_that_is_refused_makes_no_topic_and_no_model(
    bus: mt.EventBus, scans: Path, refused: type[mt.MltriggerError]
) -> None:
    bus.register(read, name="known", version="1.0.0")
    bus.subscribe("elsewhere", read, name="taken")
    topics, models = list(bus.topics()["topic"]), list(bus.models()["model"])
    options: dict[Any, dict[str, Any]] = {
        mt.VersionConflict: {"model": mt.model(lambda path: path, name="known", version="1.0.0")},
        mt.NameTaken: {"model": mt.model(lambda path: path, name="other"), "name": "taken"},
        mt.InvalidFilter: {"model": read, "filter": {"type": "added"}},
        mt.InvalidPolicy: {"model": read, "max_attempt": 3},
        mt.InvalidName: {"model": read, "emit": "no topic"},
    }

    with pytest.raises(refused):
        bus.subscribe(scans, **options[refused])

    assert list(bus.topics()["topic"]) == topics
    assert list(bus.models()["model"]) == models


def test_files_at_rest_are_not_looked_at(
    bus: mt.EventBus, scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(500):
        (scans / f"{number}.dat").touch()
    looks: list[float] = []
    look = FolderWatch.look
    monkeypatch.setattr(
        FolderWatch, "look", lambda self, now_s: looks.append(now_s) or look(self, now_s)
    )
    sub = bus.subscribe(
        scans,
        mt.model(lambda events: [event["size"] for event in events], name="sizes", batch=True),
    )
    assert bus.wait(timeout_s=60, progress=False) and len(sub.results()) == 500
    time.sleep(1.5)  # until the system tells of changes: then every file is looked at once more
    before = len(looks)
    time.sleep(1.5)

    put_now(scans, "new.dat")
    (scans / "7.dat").write_text("rewritten")
    handled(sub, 502)

    assert len(looks) - before <= 1
    assert sorted(subjects(bus)[-2:]) == ["7.dat", "new.dat"]


def test_files_are_found_where_the_system_tells_of_no_changes(
    bus: mt.EventBus, scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles._rust_notify", None)
    path = put_now(scans, "a.png", b"A")
    sub = bus.subscribe(scans, read)
    handled(sub, 1)

    path.write_bytes(b"B")
    handled(sub, 2)
    put_now(scans, "b.png", b"C")
    handled(sub, 3)

    assert list(sub.invocations()["output"]) == ['"A"', '"B"', '"C"']
    (finding,) = sub.doctor()["finding"]
    assert (
        finding
        == "nothing tells of changes in 'scans' (the package watchfiles is not installed): its"
        " files are looked at every few seconds"
    )


def test_process_that_watches_can_fork_and_ends_in_time(scans: Path) -> None:
    program = """
import multiprocessing, os, sys, mltrigger as mt

def end(): sys.exit(7)

bus = mt.connect("memory://")
sub = bus.subscribe(sys.argv[1] + "/", mt.model(len, name="length", version="1.0.0"))
open(sys.argv[1] + "/a", "w").close()
assert bus.wait(timeout_s=20, progress=False)
child = multiprocessing.get_context("fork").Process(target=end)
child.start()
child.join(20)
open(sys.argv[1] + "/b", "w").close()
assert bus.wait(timeout_s=20, progress=False)
print(child.exitcode, len(sub.results()))
"""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(scans)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (ran.stdout.split(), ran.stderr, ran.returncode) == (["7", "2"], "", 0)


def test_replaced_file_is_said_in_an_executor_too(bus: mt.EventBus, scans: Path) -> None:
    path = put_now(scans, "a.txt", b"a first draft")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        sub = bus.subscribe(scans, mt.model(size_of, name="far"), executor=pool, listen=False)
        bus.subscribe(scans, read, name="here", max_attempts=1)
        wait_until(lambda: subjects(bus))
        path.write_bytes(b"final")
        wait_until(lambda: len(subjects(bus)) == 2)
        sub.start()
        handled(sub, 2)

        said = sub.invocations().sort_values("published_at")["stdout"]
        assert [str(text).startswith("etag_mismatch: file a.txt") for text in said] == [True, False]
        sub.stop()
