"""What nobody outside may do: run code, reach files, forge what is shown or logged, read secrets.

On the embedded broker.

The user of the notebook and the models are trusted; events, file names and what models print or
raise are not. Data and answers are kept as they were given, secrets in them included: whoever may
read the store may read the events.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import html.parser
import json
import logging
import os
import pickle
import re
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from shared import wait_until

import mltrigger as mt
from mltrigger import cli
from mltrigger.filters import FilterPolicy
from mltrigger.store import wake
from mltrigger.store.sqlite import files, logkeeper
from mltrigger.store.sqlite import store as sqlite
from mltrigger.store.transaction import Transaction
from mltrigger.text import harmless, one_line, redacted
from mltrigger.worker import Stop, Worker

PACKAGE = Path(mt.__file__).parent
MARKUP = "<img src=x onerror=alert(1)></script></td>\"'"
CONTROL = "\x1b[2J\x07\u202egnp\u2066\x9b31m"
HOSTILE = f"{MARKUP}{CONTROL}\n2026-01-01 ERROR forged"
PRINTABLE = f"{MARKUP}2026-01-01 ERROR forged"
"""As far as an id, a source and a type may go: they hold printable characters only."""
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
PATIENCE_S = 60.0


@pytest.fixture
def memory_bus() -> Iterator[mt.EventBus]:
    with mt.connect("memory://") as bus:
        yield bus


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What a handler of the logger "mltrigger" would write, one item a record."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(
        logging.Formatter("%(levelname)s %(message)s").format(record)
    )  # type: ignore[method-assign]
    logger = logging.getLogger("mltrigger")
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def fire(bus: mt.EventBus, topic: str, samples: list[Any]) -> mt.Run:
    return bus.fire(topic, samples, timeout_s=PATIENCE_S, progress=False)


# -- one hostile text in every field, and every view -----------------------------------------------


class Active(html.parser.HTMLParser):
    """The tags and attributes in a piece of HTML that could do something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        if tag in (
            "img",
            "script",
            "iframe",
            "object",
            "embed",
            "link",
            "a",
            "form",
            "input",
            "base",
            "meta",
        ):
            self.found.append(tag)
        self.found += [
            name
            for name, value in attributes
            if name.startswith("on") or name in ("src", "href") or "javascript:" in str(value)
        ]


class HostileError(Exception):
    pass


HostileError.__qualname__ = HostileError.__name__ = HOSTILE


def hostile(data: Any) -> Any:
    print(HOSTILE)
    if data == "fail":
        raise HostileError(HOSTILE)
    if data == "retry":
        raise mt.Retry(3600, HOSTILE)
    if data == "reject":
        raise mt.Reject(HOSTILE)
    return {HOSTILE: HOSTILE, "list": [HOSTILE]}


hostile.__doc__ = HOSTILE


@pytest.fixture
def attacked(
    tmp_path: Path, logged: list[str]
) -> Iterator[tuple[mt.EventBus, mt.Subscription, mt.Run, mt.Subscription]]:
    """A bus on which every field that takes text holds the hostile one."""
    scans = tmp_path / "scans"
    scans.mkdir()
    for name in (HOSTILE.replace("/", ""), "plain.png"):
        (scans / name).write_bytes(b"page")
        os.utime(scans / name, (1e9, 1e9))
    with mt.connect(f"sqlite:///{tmp_path / 'bus.db'}") as bus:
        sub = bus.subscribe("pages", hostile, max_attempts=1, emit="next")
        kept_out = bus.subscribe(
            "pages",
            mt.model(hostile, name="picky"),
            filter={"subject": [HOSTILE, {"prefix": MARKUP}], "none": ["x"]},
        )
        folder = bus.subscribe(f"file://{scans}/*", mt.model(hostile, name="files"))
        attributes = {
            "type": PRINTABLE,
            "source": PRINTABLE,
            "subject": HOSTILE,
            "extensions": {"note": HOSTILE},
        }
        events = [
            mt.Event(data, id=f"{PRINTABLE}{i}", **attributes)
            for i, data in enumerate([HOSTILE, {HOSTILE: HOSTILE}, "fail", "reject", "discard"])
        ]
        run = fire(bus, "pages", [*events, mt.Event("fail", id="to be discarded")])
        bus.publish("pages", mt.Event("retry", subject=HOSTILE))
        wait_until(lambda: bus.wait(0.1, progress=False) or sub.depth().delayed == 1)
        sub.discard("to be discarded", HOSTILE)
        assert len(kept_out.skipped()) == 7
        assert len(folder.results()) == 2
        logging.getLogger("mltrigger").warning("event %s", HOSTILE)
        yield bus, sub, run, kept_out


def frames_of(
    bus: mt.EventBus, sub: mt.Subscription, run: mt.Run, kept_out: mt.Subscription
) -> dict[str, Any]:
    ids = bus.events()["event_id"].tolist()
    return {
        "events": bus.events(),
        "models": bus.models(),
        "subscriptions": bus.subscriptions(),
        "topics": bus.topics(),
        "audit": bus.audit(),
        "invocations": bus.invocations(),
        "latency": bus.latency(),
        "doctor": bus.doctor(),
        "skipped": kept_out.skipped(),
        "dead letters": sub.dead_letters().drop(columns=["raw"]),  # the bytes as they came
        **{
            f"explain {i}": bus.explain(id_, name)
            for i, id_ in enumerate(ids)
            for name in ("hostile", "picky")
        },
        **{f"trace {i}": bus.trace(id_) for i, id_ in enumerate(ids)},
    }


def values_of(sub: mt.Subscription, run: mt.Run) -> dict[str, Any]:
    """The frames whose columns are what the model returned, as values."""
    return {"results": run.results(), "all results": sub.results(), "dry run": sub.dry_run()}


def test_a_hostile_text_is_only_text_in_every_view(
    attacked: Any, logged: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """BI-128, BI-135: nowhere active markup; nowhere a raw control character in HTML, in a terminal
    or in a log.
    """
    bus, sub, run, kept_out = attacked
    tables, answers = frames_of(*attacked), values_of(sub, run)
    event = mt.Event(
        HOSTILE, type=PRINTABLE, source=PRINTABLE, subject=HOSTILE, extensions={"note": HOSTILE}
    )
    dashboard = sub.dashboard(sample=event)
    bundle = dashboard._repr_mimebundle_()[0]
    Worker(bus, (), cli._say, Stop()).look()
    for command in (
        ["doctor"],
        ["publish", "pages", "--text", HOSTILE, "--subject", HOSTILE],
        ["publish", HOSTILE, "1"],
        ["publish", "pages", HOSTILE],
    ):
        cli.main([*command, "--url", f"sqlite:///{tmp_path / 'bus.db'}"])
    printed = capsys.readouterr()

    marked_up = {
        **{name: thing._repr_html_() for name, thing in {**tables, **answers}.items()},
        **{f"{type(o).__name__} html": o._repr_html_() for o in (bus, sub, run, event, kept_out)},
        "dashboard": dashboard.to_html(times=True),
        "bundle": bundle["text/html"],
    }
    assert {
        name: Active(text).found for name, text in marked_up.items() if Active(text).found
    } == {}
    raw = {name: RAW.findall(text) for name, text in marked_up.items() if RAW.search(text)}
    assert raw == {}

    as_text = {
        **{name: table.to_csv() for name, table in {**tables, **answers}.items()},
        **{
            f"{name} repr": f"{table!r}{[table[column] for column in table]}{list(table)}"
            for name, table in {**tables, **answers}.items()
        },
        **{
            f"{type(o).__name__} repr": repr(o)
            for o in (bus, sub, run, event, dashboard, sub.depth(), run.receipts[0])
        },
        "state": "\n".join(_texts(dashboard.state)),
        "printed": printed.out + printed.err,
        "plain": bundle["text/plain"],
    }
    raw = {name: RAW.findall(text) for name, text in as_text.items() if RAW.search(text)}
    assert raw == {}
    assert len([line for line in logged if not line.isprintable()]) == 0
    assert not [
        line
        for line in (printed.out + printed.err).splitlines()
        if line.startswith("2026-01-01 ERROR")
    ]
    dashboard.close()


UNSEEN = [
    *map(
        chr,
        [
            *range(9),
            11,
            12,
            *range(14, 32),
            *range(127, 160),
            0x61C,
            0x200E,
            0x200F,
            *range(0x202A, 0x202F),
        ],
    ),
    *map(chr, [0x2028, 0x2029, *range(0x2066, 0x206A), 0xFEFF]),
]


@pytest.mark.parametrize(
    "answer",
    [
        "a{}b",
        ["a{}b", {"n": ["{}"]}],
        {"text": "a{}b", "list": ["{}"], "inner": {"k{}": "{}"}},
        {"k{}": 1},
        {"{}": {"{}": "{}"}},
    ],
    ids=["text", "list", "object", "column", "all"],
)
def test_no_character_of_an_answer_moves_the_cursor_or_turns_the_line(answer: Any) -> None:
    """In text and HTML, in cells, in nested answers and in names of columns; the exact answer is
    kept.
    """
    answers = [
        json.loads(json.dumps(answer).replace("{}", json.dumps(character)[1:-1]))
        for character in UNSEEN
    ]
    with mt.connect("memory://") as bus:
        sub = bus.subscribe(
            "pages", mt.model(lambda number: answers[number], name="answers", version="1.0.0")
        )
        run = fire(bus, "pages", list(range(len(answers))))

        for table in (run.results(), sub.results()):
            shown = f"{table.to_string()}{table.to_html()}{table.to_csv()}{table!r}{table._repr_html_()}{list(table)}"
            assert not set(shown) & set(UNSEEN)
            assert not [
                cell
                for column in table
                for cell in _texts(table[column].tolist())
                if set(cell) & set(UNSEEN)
            ]
        assert sorted(map(repr, map(json.loads, run.invocations()["output"]))) == sorted(
            map(repr, answers)
        )


def test_answers_whose_keys_look_alike_keep_all_their_values() -> None:
    with mt.connect("memory://") as bus:
        bus.subscribe(
            "pages",
            mt.model(
                lambda _: {"a\\u001b": 1, "a\x1b": 2, "b\x1b": {"\x9b": 3, "\\u009b": 4}},
                name="m",
                version="1.0.0",
            ),
        )
        (row,) = fire(bus, "pages", [1]).results().to_dict("records")

    assert (row["a\\u001b"], sorted(v for k, v in row.items() if k.startswith("a"))) == (1, [1, 2])
    assert sorted(row["b\\u001b"].values()) == [3, 4]


def test_text_that_needs_no_care_is_shown_as_it_is() -> None:
    texts = ["ü\tß\n", "👩‍🔬", "می‌خواهم", "\\u001b", "\u00a0", ""]
    with mt.connect("memory://") as bus:
        bus.subscribe("pages", mt.model(lambda text: text, name="m", version="1.0.0"))

        assert fire(bus, "pages", texts).results()["output"].tolist() == texts


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from (*_texts(key), *_texts(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def test_what_is_escaped_for_the_eye_is_kept_as_it_was_given(attacked: Any) -> None:
    """JSON with escapes is the same JSON, and bytes are in ``raw``."""
    bus, sub, run, _ = attacked
    answer = {HOSTILE: HOSTILE, "list": [HOSTILE]}

    assert json.loads(bus.events("pages")["data"][0]) == HOSTILE
    assert (
        json.loads(sub.invocations()["output"][0])
        == json.loads(run.invocations()["output"][0])
        == answer
    )
    assert sub.dead_letters()["raw"].tolist() == [b'"fail"', b'"reject"', b'"retry"']
    assert run.results()[harmless(HOSTILE)][0] == harmless(HOSTILE)


def test_a_log_record_is_one_line_and_its_traceback_is_indented_and_without_secrets(
    logged: list[str],
) -> None:
    logger = logging.getLogger("mltrigger")
    for level in (logging.WARNING, logging.DEBUG):
        logger.setLevel(level)
        try:
            raise ValueError(f"password=hunter2 {HOSTILE}")
        except ValueError:
            logger.exception("failed")
        finally:
            logger.setLevel(logging.NOTSET)

    assert logged[0].isprintable()
    first, *rest = logged[1].splitlines()
    assert first.isprintable()
    assert rest
    assert all(line.startswith("    ") for line in rest)
    assert not RAW.search(logged[1])
    assert not [line for line in logged if "hunter2" in line]


# -- the store -------------------------------------------------------------------------------------


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def test_everything_that_a_bus_leaves_on_the_disk_is_private_whatever_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stack: contextlib.ExitStack
) -> None:
    # the path of a socket is short
    temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mt")))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(logkeeper, "CHECKPOINT_BYTES", 1)
    before = os.umask(0)
    try:
        with mt.connect(f"sqlite:///{tmp_path / 'bus.db'}") as bus:
            bus.subscribe("pages", hostile)
            fire(bus, "pages", [1])
            wait_until((tmp_path / "bus.db-checkpoint").exists)
            modes = {
                path: stat.S_IMODE(path.lstat().st_mode)
                for path in (*tmp_path.glob("bus.db*"), *temporary.rglob("*"))
            }
            sockets = [path for path in modes if stat.S_ISSOCK(path.lstat().st_mode)]
    finally:
        os.umask(before)

    assert {path.name for path in modes} >= {
        "bus.db",
        "bus.db-wal",
        "bus.db-shm",
        "bus.db-checkpoint",
    }
    assert {modes[path] for path in modes if path.parent == tmp_path} == {0o600}
    assert [modes[path] for path in sockets] == [0o600]
    assert [modes[path] for path in sockets[0].parents if path in modes] == [0o700, 0o700]


def test_a_store_that_is_a_link_or_belongs_to_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mt.connect(f"sqlite:///{tmp_path / 'bus.db'}").close()
    (tmp_path / "link.db").symlink_to(tmp_path / "bus.db")
    with pytest.raises(mt.StoreError, match="symbolic link is refused"):
        mt.connect(f"sqlite:///{tmp_path / 'link.db'}")
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(mt.StoreError, match=r"'bus\.db' belongs to another user"):
        mt.connect(f"sqlite:///{tmp_path / 'bus.db'}")


def test_a_folder_of_sockets_that_somebody_else_made_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"mltrigger-{os.getuid()}").mkdir()
    (tmp_path / f"mltrigger-{os.getuid()}").chmod(0o755)

    assert wake._folder("/somewhere/bus.db") is None


@pytest.mark.parametrize(
    ("mounted", "kind"),
    [
        ("server:/x {here} nfs4 rw", "nfs4"),
        ("//server/x {here} cifs rw", "cifs"),
        ("x {here} fuse.sshfs rw", "fuse.sshfs"),
        ("x {here} 9p rw", "9p"),
        ("/dev/sda1 {here} ext4 rw", None),
        ("server:/x {here}/below nfs rw", None),
        ("server:/x {here}-beside nfs rw", None),
    ],
)
def test_a_network_file_system_is_seen(tmp_path: Path, mounted: str, kind: str | None) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/root / ext4 rw 0 0\n" + mounted.format(here=tmp_path) + " 0 0\n")

    assert files.network_filesystem(tmp_path / "bus.db", str(mounts)) == kind


# -- nothing is unpickled --------------------------------------------------------------------------


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_pickled_bytes_are_bytes_wherever_they_come_from(
    memory_bus: mt.EventBus, tmp_path: Path, isolation: str
) -> None:
    """BI-131: as data, within data, in an extension, as an answer, printed."""
    created = tmp_path / "created"
    body = pickle.dumps(Evil(created))
    assert pickle.loads(pickle.dumps(Evil(tmp_path / "proof"))) is None
    assert (tmp_path / "proof").exists()

    def returns(data: Any) -> Any:
        print(data)
        return data

    sub = memory_bus.subscribe(
        "pages", mt.model(returns, name="returns"), isolation=isolation, emit="next"
    )
    last = memory_bus.subscribe("next", mt.model(lambda data: "seen", name="last"))
    text = body.decode("latin-1")
    run = fire(
        memory_bus,
        "pages",
        [
            body,
            {"page": body},
            mt.Event(1, extensions={"model": text}),
            mt.Event(body, datacontenttype="application/x-pickle"),
        ],
    )
    assert memory_bus.wait(PATIENCE_S, progress=False)
    assert len(memory_bus.events()) == len(sub.invocations()) + len(last.invocations()) == 8

    assert run.results()["outcome"].tolist() == ["succeeded"] * 4
    assert last.results()["output"].tolist() == ["seen"] * 4
    assert not created.exists()


def test_only_what_the_parent_pickled_is_unpickled_and_no_event_leads_there() -> None:
    """One call in the package. It unpickles the contents that came with the request to load a
    model, and only the parent writes them.
    """
    calls = [
        (path.relative_to(PACKAGE).as_posix(), ast.unparse(node))
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and re.search(
            r"pickle\.(load|Unpickler)|\b(joblib|shelve|dill|torch)\.|marshal\.load",
            ast.unparse(node.func),
        )
    ]
    worker, child = functions_of("worker"), functions_of("child")

    assert calls == [("versions/running/workers/worker.py", "pickle.loads(contents)")]
    assert callers(worker, "pickle.loads") == {"load"}
    assert callers(worker, "load") == {"_loaded"}
    assert callers(worker, "_loaded") == {"run"}
    # an event comes as JSON beside the contents
    assert "_loaded(key, json.loads(ticket), contents or b'')" in worker["run"]
    # in a child: the first message, which the parent writes before there is any event
    assert callers(child, "load") == {"main"}
    assert "wanted = channel.receive()" in child["main"]
    assert "_contents(wanted.get('file'))" in child["main"]


def callers(functions: dict[str, str], name: str) -> set[str]:
    """Return the names of those *functions* that call *name*."""
    called = re.compile(rf"(?<![\w.]){re.escape(name)}\(")
    return {
        caller
        for caller, text in functions.items()
        if caller != name and called.search(text.partition("\n")[2])
    }


def functions_of(module: str) -> dict[str, str]:
    tree = ast.parse((PACKAGE / "versions" / "running" / "workers" / f"{module}.py").read_text())
    return {f.name: ast.unparse(f) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef)}


# -- paths -----------------------------------------------------------------------------------------


def _tries_to_open(event: mt.Event) -> Any:
    try:
        with event.open() as file:
            return file.read().decode()
    except Exception as error:
        return type(error).__name__


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_an_event_opens_nothing_but_a_plain_file_of_its_folder(
    memory_bus: mt.EventBus, tmp_path: Path, isolation: str
) -> None:
    """What is no plain file is never announced; a forged event on the folder's topic opens nothing
    either.
    """
    scans, secret = tmp_path / "scans", tmp_path / "secret.png"
    (scans / "folder.png").mkdir(parents=True)
    secret.write_text("secret")
    (scans / "link.png").symlink_to(secret)
    (scans / "up.png").symlink_to("..")
    (scans / "device.png").symlink_to("/dev/zero")
    os.mkfifo(scans / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(scans)  # the path of a socket is short
        listening.bind("socket.png")
        os.chdir(here)
    (scans / "good.png").write_text("good")
    os.utime(scans / "good.png", (1e9, 1e9))
    os.link(secret, scans / ".hidden.png")

    sub = memory_bus.subscribe(
        f"file://{scans}/*.png", mt.model(_tries_to_open, name="opens"), isolation=isolation
    )
    assert memory_bus.wait(PATIENCE_S, progress=False)
    assert memory_bus.events(sub.topic)["subject"].tolist() == ["good.png"]
    names = [
        "../secret.png",
        "../../etc/passwd",
        "/etc/passwd",
        str(secret),
        "x\x00",
        "good.png\x00.png",
        "..",
        ".",
        "link.png",
        "up.png",
        "up.png/secret.png",
        "device.png",
        "pipe.png",
        "socket.png",
        "folder.png",
        ".hidden.png",
        "file:///etc/passwd",
        "..\\secret.png",
        "gone.png",
        "good.txt",
        None,
    ]
    run = fire(
        memory_bus,
        sub.topic,
        [*(mt.Event(None, subject=name) for name in names), mt.Event(None, subject="good.png")],
    )
    opened = run.results()["output"].tolist()

    assert opened[-1] == "good"
    assert set(opened[:-1]) <= {
        "InvalidEvent",
        "OSError",
        "FileNotFoundError",
        "ObjectMissing",
        "IsADirectoryError",
    }
    assert sub.results()["output"].tolist()[0] == "good"


# so that it is sent by value, and no process imports this file
_tries_to_open.__module__ = "__main__"


# -- secrets ---------------------------------------------------------------------------------------

CANARY = "cAnArY7"
SECRETS = [
    f"postgresql://reader:{CANARY}@db.example/events?password={CANARY}",
    f"Authorization: Bearer {CANARY}.{CANARY}",
    f"aws_access_key_id=AKIAIOSFODNN7{CANARY.upper()} aws_secret_access_key={CANARY}/K7MDENG",
    f"https://bucket.s3.amazonaws.com/a.png?X-Amz-Credential={CANARY}&X-Amz-Signature={CANARY}00ff",
    f"{{'password': '{CANARY} with, blanks', \"token\": \"{CANARY}\"}}",
    f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n{CANARY}\n-----END PRIVATE KEY-----",
]


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_a_secret_that_a_model_raises_or_prints_is_kept_nowhere(
    tmp_path: Path, isolation: str, logged: list[str]
) -> None:
    """BI-106: in no frame, HTML, log record or dead letter, and not in the bytes of the database."""
    shown, file = SECRETS, tmp_path / "bus.db"

    def leaks(data: Any) -> Any:
        for text in shown:
            print(text)
        # and this line stands in the traceback
        raise RuntimeError("\n".join(shown)) from ValueError("password=cAnArY7")

    def degrades(data: Any) -> Any:
        class Answer:
            def __repr__(self) -> str:
                return "\n".join(shown)

        return Answer()

    with mt.connect(f"sqlite:///{file}") as bus:
        sub = bus.subscribe(
            "pages", mt.model(leaks, name="leaks"), max_attempts=1, isolation=isolation
        )
        other = bus.subscribe("pages", mt.model(degrades, name="degrades"), isolation=isolation)
        run = fire(bus, "pages", [1])
        tables = [*frames_of_two(bus, sub, other, run)]
        texts = [table.to_csv() for table in tables] + [table._repr_html_() for table in tables]
        texts += (
            [repr(o) for o in (bus, sub, run)] + [o._repr_html_() for o in (bus, sub, run)] + logged
        )
        texts += [str(other.dashboard().state), sub.dashboard().to_html(times=True)]
        content = b"".join(path.read_bytes() for path in tmp_path.glob("bus.db*"))

    assert sub.name.encode() in content
    assert b"***" in content
    assert not [text for text in texts if CANARY.lower() in text.lower()]
    assert CANARY.lower().encode() not in content.lower()


def frames_of_two(
    bus: mt.EventBus, sub: mt.Subscription, other: mt.Subscription, run: mt.Run
) -> Iterator[Any]:
    yield from (
        bus.events(),
        bus.invocations(),
        bus.doctor(),
        sub.dead_letters(),
        sub.dry_run(),
        sub.results(),
        other.results(),
        run.results(),
    )
    yield from (
        bus.explain(id_, name)
        for id_ in bus.events()["event_id"]
        for name in (sub.name, other.name)
    )


def test_data_and_answers_are_kept_as_they_were_given(memory_bus: mt.EventBus) -> None:
    """A secret in an event stays in it: what is redacted could not be processed, replayed or
    compared.
    """
    sub = memory_bus.subscribe("pages", mt.model(lambda data: data, name="same"))

    assert fire(memory_bus, "pages", [SECRETS[0]]).results()["output"].tolist() == [SECRETS[0]]
    assert (
        json.loads(memory_bus.events()["data"][0])
        == json.loads(sub.invocations()["output"][0])
        == SECRETS[0]
    )


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://reader:hunter2@db.example/events",
        "reader:hunter2@db.example",
        "hunter2",
        "sqlite://reader:hunter2@db.example/x.db",
        "sqlite:///x.db?password=hunter2",
        "mysql+hunter2-is-a-very-long-scheme-indeed://x",
        "memory://hunter2",
        "aws://key:hunter2@eu-west-1/prefix",
    ],
)
def test_a_password_in_the_url_of_the_environment_is_not_repeated(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLTRIGGER_URL", url)
    with pytest.raises(mt.MltriggerError) as caught:
        mt.connect()

    assert "hunter2" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


HIDDEN = [
    ("postgresql://u:pw@h/db?password=q", "postgresql://u:***@h/db?password=***"),
    ("redis://:p@ss@h:6379", "redis://:***@h:6379"),
    ("{'password': 'a,b c', 'x': 1}", "{'password': '***', 'x': 1}"),
    ('{"api_key": "abc", "n": 1}', '{"api_key": "***", "n": 1}'),
    (r"{\"token\": \"abc\"}", r"{\"token\": \"***" + '"}'),
    ("token=123456", "token=***"),
    ("PGPASSWORD=x; ls", "PGPASSWORD=***; ls"),
    ("SECRET_KEY='a b'", "SECRET_KEY='***'"),
    ("AccountKey=abc==;EndpointSuffix=core", "AccountKey=***;EndpointSuffix=core"),
    ("API key: abcd", "API key: ***"),
    ("X-Api-Key: abcd", "X-Api-Key: ***"),
    ("Authorization: Basic dXNlcjpodW50ZXIy", "Authorization: Basic ***"),
    ("bearer abcDEF123456", "bearer ***"),
    ("?X-Amz-Signature=0a1b&Expires=9", "?X-Amz-Signature=***&Expires=9"),
    ("?se=2026&sig=a%2Bb%3D", "?se=2026&sig=***"),
    ("signature=0123456789abcdef0123", "signature=***"),
    ("AKIAIOSFODNN7EXAMPLE", "AKIA***"),
    ("('ASIAIOSFODNN7EXAMPLE', 'wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY')", "('ASIA***', '***')"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "eyJ***"),
    ("ghp_0123456789abcdefghij", "ghp_***"),
    (
        "-----BEGIN RSA PRIVATE KEY-----\nabc-d\n-----END RSA PRIVATE KEY-----!",
        "-----BEGIN RSA PRIVATE KEY-----***-----END RSA PRIVATE KEY-----!",
    ),
    ("-----BEGIN PRIVATE KEY-----\ncut off", "-----BEGIN PRIVATE KEY-----***"),
    ("token=" + "x" * 5000 + " end", "token=*** end"),
]


@pytest.mark.parametrize(("text", "expected"), HIDDEN, ids=[text[:30] for text, _ in HIDDEN])
def test_a_secret_is_hidden_and_what_stands_beside_it_is_not(text: str, expected: str) -> None:
    assert redacted(text) == expected
    assert redacted(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "tokens: 15",
        "token: 15",
        "max_tokens=256",
        "token=7, loss=0.25",
        "predict() missing 1 required positional argument: 'token'",
        "f() got an unexpected keyword argument 'password'",
        "inspect.Signature(parameters=[x])",
        "no signature found for builtin <x>",
        "signature: (x: int) -> str",
        "signature=inspect.Signature.empty",
        "KeyError: 'secret'",
        "Basic authentication failed",
        "the bearer certificate expired",
        "unexpected token: <EOF>",
        "http://host:8080/path?mail=a@b.c",
        "token=None",
        "git@github.com:a/b.git",
        "key=value",
        "primary key: id",
        "2026-11-23T09:30:00Z",
        "sklearn.compose",
        "3f786850e387550fdab836ed7e6dc881de23001b",
        "ocr:1.0.0@champion",
        "-----BEGIN CERTIFICATE-----",
        "passed: 3, failed: 1",
        "secretary: Bob",
    ],
)
def test_what_is_no_secret_stays_readable(text: str) -> None:
    assert redacted(text) == text


# -- SQL -------------------------------------------------------------------------------------------

INJECTION = "x'; DROP TABLE event; --"


def test_no_name_reaches_the_text_of_a_statement(
    memory_bus: mt.EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hostile name is refused, or bound; an error names it and nothing is changed."""
    sub = memory_bus.subscribe("pages", mt.model(hostile, name="hostile"), max_attempts=1)
    fire(memory_bus, "pages", [1, "fail"])
    statements: list[str] = []

    def watched(method: Any) -> Any:
        @functools.wraps(method)
        def call(self: Any, sql: str, *rest: Any) -> Any:
            statements.append(sql)
            return method(self, sql, *rest)

        return call

    monkeypatch.setattr(sqlite.SqliteStore, "read", watched(sqlite.SqliteStore.read))
    for name in ("query", "execute", "execute_many"):
        monkeypatch.setattr(Transaction, name, watched(getattr(Transaction, name)))
    bus, any_ = memory_bus, INJECTION
    calls: list[Callable[[], Any]] = [
        lambda: bus.topic(any_),
        lambda: bus.publish(any_, 1),
        lambda: bus.events(any_),
        lambda: bus.trace(any_),
        lambda: bus.subscribe(any_, hostile),
        lambda: bus.subscribe("pages", hostile, name=any_),
        lambda: bus.subscribe("pages", hostile, emit=any_),
        lambda: bus.subscribe("pages", any_),
        lambda: bus.subscribe("pages", f"hostile:{any_}"),
        lambda: bus.subscribe("pages", f"hostile@{any_}"),
        lambda: bus.subscription(any_),
        lambda: bus.unsubscribe(any_),
        lambda: bus.register(hostile, name=any_),
        lambda: bus.register(hostile, version=any_),
        lambda: bus.alias(any_, "a", "1"),
        lambda: bus.alias("hostile", any_, "1"),
        lambda: bus.alias("hostile", "a", any_),
        lambda: bus.invocations(any_),
        lambda: bus.doctor(any_),
        lambda: bus.explain(any_, "hostile"),
        lambda: bus.explain("x", any_),
        lambda: bus.skipped(any_),
        lambda: bus.invocations(columns=[any_]),
        lambda: bus.invocations(limit=any_),
        lambda: bus.invocations(since=any_),
        lambda: bus.events(limit=any_),
        lambda: bus.events(since=any_),
        lambda: sub.results(limit=any_),
        lambda: sub.redrive(any_),
        lambda: sub.discard(any_, "why"),
        lambda: sub.dry_run(any_),
        lambda: sub.skipped(any_),
        lambda: sub.dry_run(version=any_),
        lambda: bus.retain(max_age_s=any_),
        lambda: bus.subscribe("pages", hostile, start=any_),
        lambda: bus.subscribe("pages", hostile, filter={any_: [any_]}, name="filtered"),
        lambda: sub.discard(sub.dead_letters(), any_),
        lambda: bus.fire(
            "pages",
            [
                mt.Event(
                    any_, id=any_, source=any_, type=any_, subject=any_, extensions={"note": any_}
                )
            ],
            progress=False,
        ),
    ]
    refused = [error for call in calls if (error := _error_of(call)) is not None]

    assert len(refused) >= len(calls) - 7
    assert [
        error
        for error in refused
        if not isinstance(error, (mt.MltriggerError, TypeError, ValueError))
    ] == []
    assert [text for text in statements if "DROP" in text or INJECTION[:2] in text] == []
    assert memory_bus.topics()["topic"].tolist() == ["pages"]
    assert len(memory_bus.events()) == 3
    assert memory_bus.audit()["balanced"].all()


def _error_of(call: Callable[[], Any]) -> BaseException | None:
    try:
        call()
    except BaseException as error:
        return error
    return None


# -- time ------------------------------------------------------------------------------------------

REPEATED = [
    "password=",
    "password='",
    "password='\n",
    "://",
    "a://b:",
    "a://",
    "-----BEGIN ",
    "-----BEGIN PRIVATE KEY-----",
    "bearer ",
    "basic a",
    "eyJ-",
    "eyJaaaaaaaa.",
    "AKIAIOSFODNN7EXAMPLE ",
    "token: ",
    "signature=a",
    "?sig=",
    "ghp_",
    "sk-",
    "x-amz-",
    "'",
    "\x1b",
    "a",
]


def cpu_s(action: Callable[[], object]) -> float:
    """Return the least processor time of three calls."""
    times = []
    for _ in range(2):
        began = time.thread_time()
        action()
        times.append(time.thread_time() - began)
    return min(times)


def grows_linearly(action: Callable[[str], object], text: Callable[[int], str], size: int) -> bool:
    """Whether eight times the text takes less than 24 times as long: 64 times would be quadratic.

    Looked at up to three times.
    """
    small, large = text(size // 8), text(size)
    return any(
        cpu_s(lambda: action(large)) < 24 * cpu_s(lambda: action(small)) + 0.01 for _ in range(3)
    )


@pytest.mark.parametrize("unit", REPEATED, ids=ascii)
def test_redacting_takes_time_in_proportion_to_the_text(unit: str) -> None:
    def text(size: int) -> str:
        return (unit * (size // len(unit) + 1))[:size]

    assert grows_linearly(redacted, text, 128 * 1024)


@pytest.mark.parametrize("escape", [one_line, harmless])
def test_escaping_takes_time_in_proportion_to_the_text(escape: Callable[[str], str]) -> None:
    assert grows_linearly(escape, lambda size: "\x1b" * size, 128 * 1024)


@pytest.mark.parametrize(
    "pattern", ["*a*a*b", "a*a*a*b*", "*" + "a*" * 20 + "b"], ids=["two", "four", "twenty"]
)
def test_a_filter_takes_time_in_proportion_to_the_event(pattern: str) -> None:
    try:
        policy = FilterPolicy.parse({"name": [{"wildcard": pattern}]}, "MessageAttributes")
    except mt.InvalidFilter:
        return  # more wildcards than SNS takes

    assert grows_linearly(
        lambda t: policy.matches_attributes({"name": t}), lambda size: "a" * size, 1024 * 1024
    )
