"""Cases: an answered event becomes a file, and the file a test of the model in the working tree."""

from __future__ import annotations

import configparser
import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from shared import wait_until

import mltrigger as mt
from mltrigger import cli
from mltrigger.testing import record_case
from mltrigger.testing.case import MAX_OBJECT_BYTES, Case
from mltrigger.testing.rerun import CaseFailed, rerun

PLUGIN = "mltrigger.testing.cases"
URL = "sqlite:///bus.db"
MODELS = """
import mltrigger as mt

CALLS = []

def charge(order):
    CALLS.append(order)
    return {"charged": order["total"], "receipt": "r-1"}

@mt.model("shop", version="1.0.0")
def answer(order):
    receipt = mt.once("charge", charge, order)
    mail = mt.once("mail", len, "hello", key=f"order-{order['id']}")
    print("charged")
    return {"receipt": receipt["receipt"], "total": order["total"], "mail": mail}

@mt.model("pages", version="1.0.0")
def read(event: mt.Event):
    with event.open() as file:
        return file.read().decode().upper()

@mt.model("later", version="1.0.0")
async def waits(order):
    async def charged(order):
        CALLS.append(order)
        return order["total"]
    return await mt.once("charge", charged, order)

@mt.model("many", version="1.0.0", batch=True)
def batch(orders: list[mt.Event]):
    return [mt.once("charge", charge, o.data, event=o)["charged"] for o in orders]

@mt.model("broken", version="1.0.0")
def fails(order):
    raise mt.Reject("no such order")
"""


LIGHT = """
import sys

def test_nothing_is_loaded():
    heavy = {"pandas", "numpy", "boto3", "mltrigger.bus", "mltrigger.testing.rerun"}
    assert "mltrigger.testing.cases" in sys.modules
    assert not heavy & set(sys.modules)
"""


def run(*arguments: str) -> int:
    """Return the exit status of the command line."""
    try:
        return cli.main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the models, and a bus that has answered an order."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLTRIGGER_URL", URL)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "shop_models.py").write_text(MODELS)
    with mt.connect(URL) as bus:
        bus.subscribe("orders", "shop_models:answer", name="shop")
        bus.publish("orders", {"id": 7, "total": 12.5}, id="order-7")
        bus.wait(progress=False)
    return tmp_path


@pytest.fixture
def case(home: Path) -> Case:
    """The case of that order, as its file has it."""
    with mt.connect(URL) as bus:
        return Case.from_json(record_case(bus, "order-7").to_json())


def change(home: Path, old: str, new: str) -> None:
    """Change the models of the working tree."""
    path = home / "shop_models.py"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def refusal(case: Case, path: str | None = None) -> str:
    """Return why the model of the working tree fails *case*; empty if it does not."""
    sys.modules.pop("shop_models", None)
    try:
        rerun(case, path)
    except CaseFailed as error:
        return str(error)
    return ""


def pytest_run(*arguments: str) -> str:
    """Return the output of pytest in another process, as a user runs it here."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    env = {**os.environ, "PYTHONPATH": str(Path(mt.__file__).parents[1])}
    if "installed" not in arguments:
        env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # those of this environment take seconds
        command += ["-p", PLUGIN]
    else:
        command.remove("installed")
        env["PYTHONPATH"] = f"installed{os.pathsep}{env['PYTHONPATH']}"
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    return done.stdout + done.stderr


def test_case_has_event_effects_and_answer_and_can_be_read_again(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("export-case", "order-7") == 0

    text = capsys.readouterr().out
    found = json.loads(text)
    assert found["mltrigger_case"] == 1
    assert (found["model"], found["path"]) == ("shop:1.0.0", "shop_models:answer")
    assert found["event"]["data"] == {"id": 7, "total": 12.5}
    assert found["object"] is None
    assert [(e["name"], e["key"], e["answer"]) for e in found["effects"]] == [
        ("charge", None, {"charged": 12.5, "receipt": "r-1"}),
        ("mail", "order-7", 5),
    ]
    assert found["answer"] == {"receipt": "r-1", "total": 12.5, "mail": 5}
    assert str(home) not in text
    assert Case.from_json(text).to_json() == text


def test_pytest_collects_the_file_and_effects_come_from_the_record(home: Path) -> None:
    change(home, "CALLS.append(order)", "raise RuntimeError('charged twice')")
    assert run("export-case", "order-7", "--output", "order.case.json") == 0

    passed = pytest_run("-v")
    change(home, '"total": order["total"], "mail"', '"total": order["total"] * 2, "mail"')
    failed = pytest_run()

    assert "order.case.json::order PASSED" in passed
    assert "1 failed" in failed
    assert '-  "total": 12.5' in failed
    assert '+  "total": 25.0' in failed
    assert "rerun.py" not in failed


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            'mt.once("charge"',
            'mt.once("charge twice"',
            r"effect 'charge twice' with key '\w+' is not",
        ),
        ("f\"order-{order['id']}\"", '"order-8"', "effect 'mail' with key 'order-8' is not"),
        ('print("charged")', 'raise KeyError("vat")', "the model failed: KeyError: 'vat'"),
        ('"mail": mail', '"post": mail', r'-  "mail": 5[\s\S]*\+  "post": 5'),
        (
            "print(",
            "try:\n        mt.once('fraud', len, 'x')\n    except Exception:\n        pass\n    print(",
            "effect 'fraud' with key '.*' is not in the case",
        ),
    ],
    ids=["another effect", "another key", "an error", "another answer", "an effect caught"],
)
def test_case_fails_if_the_model_does_otherwise(
    home: Path, case: Case, old: str, new: str, said: str
) -> None:
    assert refusal(case) == ""

    change(home, old, new)

    assert re.search(said, refusal(case))


@pytest.mark.parametrize("name", ["waits", "batch"])
def test_coroutines_and_batches_get_recorded_effects(home: Path, name: str) -> None:
    with mt.connect(URL) as bus:
        sub = bus.subscribe("more", f"shop_models:{name}", name="more")
        bus.publish("more", {"id": 1, "total": 3}, id="more-1")
        wait_until(lambda: len(sub.results()) == 1)
        case = Case.from_json(record_case(bus, "more-1").to_json())
    change(home, "CALLS.append(order)", "raise RuntimeError('charged twice')")

    assert json.loads(case.answer or "") == 3
    assert refusal(case) == ""
    change(home, 'mt.once("charge", charge', 'mt.once("debit", charge')
    assert "effect 'debit' with key" in refusal(case)


def test_case_runs_without_network_not_even_to_this_machine(home: Path, case: Case) -> None:
    asked = "import socket; socket.create_connection(('127.0.0.1', 9))"
    change(home, 'print("charged")', asked)

    assert "NoNetwork: no network in a case: socket." in refusal(case)

    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.connect(server.getsockname())  # it is there again


@pytest.mark.parametrize(
    ("agree", "total", "passes"),
    [
        (None, 12.6, False),
        (0.2, 12.6, True),
        (0.05, 12.6, False),
        ({"within": {"rel": 0.01}}, 12.6, True),
        ({"field": "receipt"}, 99.0, True),
        ({"field": "receipt", "agree": {"similar": 0.5}}, 99.0, True),
        ({"field": "total", "agree": 0.2}, 99.0, False),
    ],
)
def test_tolerance_of_the_file_decides(case: Case, agree: Any, total: float, passes: bool) -> None:
    answer = json.dumps({"receipt": "r-1", "total": total, "mail": 5})
    written = dataclasses.replace(case, agree=agree, answer=answer).to_json()

    assert (refusal(Case.from_json(written)) == "") is passes


def test_unknown_tolerance_is_refused(case: Case) -> None:
    for agree in ("equal", True, {"nearly": 1}, {"similar": 2}, {"within": {"abs": -1}}):
        with pytest.raises(mt.InvalidEvent, match=r"agree|at_least|abs"):
            Case.from_json(dataclasses.replace(case, agree=agree).to_json())


def test_option_or_setting_names_the_model(home: Path, case: Case) -> None:
    Path("order.case.json").write_text(dataclasses.replace(case, path=None).to_json())

    assert "shop:1.0.0 lived in a notebook: name the model, --case-model" in pytest_run()
    for_all = ["--case-model", "shop_models:answer"]
    assert "1 passed" in pytest_run(*for_all)
    own = ["--case-model", "shop=shop_models:answer", "--case-model", "shop_models:fails"]
    assert "1 passed" in pytest_run(*own)
    Path("pytest.ini").write_text("[pytest]\ncase_models =\n    x=y:z\n    shop_models:answer\n")
    assert "1 passed" in pytest_run()


def test_model_at_an_address_is_refused(case: Case) -> None:
    with pytest.raises(mt.InvalidModel, match="a model of the working tree"):
        rerun(case, "http://127.0.0.1:1/model")


def test_object_of_the_event_is_in_the_case(home: Path) -> None:
    scans = home / "scans"
    scans.mkdir()
    (scans / "page.txt").write_text("straße")
    (scans / "large.txt").write_bytes(b"x" * (MAX_OBJECT_BYTES + 1))
    with mt.connect(URL) as bus:
        sub = bus.subscribe(f"{scans}/*.txt", "shop_models:read", name="pages")
        wait_until(lambda: len(sub.results()) == 2)
        results = sub.results().set_index("subject")
        small = record_case(bus, results.loc["page.txt"])
        large = record_case(bus, results.loc["large.txt"])
    (scans / "page.txt").unlink()

    assert small.object == "straße".encode()
    assert (large.object, large.left_out) == (None, "it has more than 8,388,608 bytes")
    assert str(home) not in small.to_json()
    assert refusal(Case.from_json(small.to_json())) == ""
    assert "the case has no object: it has more than" in refusal(large)


@pytest.mark.parametrize(("fails", "answer"), [(False, "2"), (True, "1")])
def test_case_of_a_corrected_event_has_the_answer_that_counts(fails: bool, answer: str) -> None:
    def second(page: int) -> int:
        if fails:
            raise mt.Reject("no")
        return 2

    with mt.connect("memory://") as bus:
        sub = bus.subscribe("pages", mt.model("ocr", version="1.0.0")(lambda page: 1), name="ocr")
        bus.publish("pages", 1, id="page-1")
        bus.wait(progress=False)
        sub.promote(mt.model(second, name="ocr", version="2.0.0"))
        sub.replay("1.0.0", wait=True)
        sub.correct(0).start().wait(30)

        assert record_case(bus, "page-1").answer == answer


def test_case_of_a_dead_event_passes_once_the_model_answers(home: Path) -> None:
    with mt.connect(URL) as bus:
        sub = bus.subscribe("returns", "shop_models:fails", name="returns")
        bus.publish("returns", {"id": 1}, id="return-1")
        wait_until(lambda: len(sub.dead_letters()) == 1)
        case = Case.from_json(record_case(bus, "return-1").to_json())

    assert "no such order" in refusal(case)
    change(home, 'raise mt.Reject("no such order")', "return None")
    assert refusal(case) == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["order-9"], "no event 'order-9'; did you mean 'order-8'"),
        (["order-7", "--subscription", "shpo"], "no subscription 'shpo'; did you mean 'shop'?"),
        (["order-7", "--subscription", "late"], "has no answer of 'late' yet"),
        (["order-7", "--output", "order.json"], "pytest finds files that end in .case.json"),
        (["order-7", "--output", "no/order.case.json"], "cannot be written"),
        (["order-8"], "has answers of 'again', 'shop': name the subscription"),
    ],
    ids=["an unknown event", "an unknown subscription", "no answer", "a name", "no folder", "two"],
)
def test_wrong_word_is_refused_with_advice(
    home: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with mt.connect(URL) as bus:
        bus.subscribe("orders", "shop_models:answer", name="late", listen=False)
        bus.subscribe("orders", "shop_models:answer", name="again")
        bus.publish("orders", {"id": 8, "total": 1}, id="order-8")
        bus.subscription("shop").start()
        names = ("again", "shop")
        wait_until(lambda: sum(len(bus.subscription(n).results()) for n in names) == 3)
    assert run("export-case", *arguments) == 1

    assert said in capsys.readouterr().err


def test_existing_file_is_kept(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("order.case.json").write_text("mine")

    assert run("export-case", "order-7", "--output", "order.case.json") == 1

    assert "name a new file" in capsys.readouterr().err
    assert Path("order.case.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is not JSON"),
        ("[]", "it has no member mltrigger_case"),
        ('{"mltrigger_case": 2}', "its format is 2, this release reads 1"),
        ('{"mltrigger_case": 1}', "there is no member"),
        ('{"mltrigger_case": 1, "anwser": 1}', "did you mean 'answer'"),
    ],
)
def test_file_that_is_no_case_says_so(text: str, said: str) -> None:
    with pytest.raises(mt.InvalidEvent, match=f"no case of mltrigger: .*{said}"):
        Case.from_json(text)


def test_pytest_finds_the_plugin_by_itself_and_loads_nothing_without_cases(home: Path) -> None:
    config = configparser.ConfigParser()
    config.read(Path(__file__).parents[2] / "setup.cfg")
    entry = config["options.entry_points"]["pytest11"].strip()
    assert entry == f"{PLUGIN} = {PLUGIN}"
    installed = home / "installed" / "ours-1.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: ours\nVersion: 1\n")
    (installed / "entry_points.txt").write_text(f"[pytest11]\n{entry}\n")
    Path("test_light.py").write_text(LIGHT)
    Path("wrong.case.json").write_text("[]")

    said = pytest_run("installed", "-p", "no:nbval", "--continue-on-collection-errors")

    assert "1 passed, 1 error" in said
    assert "this is no case of mltrigger: it has no member mltrigger_case" in said
    assert "1 passed" in pytest_run("installed", "-p", PLUGIN, "-p", "no:nbval", "test_light.py")
