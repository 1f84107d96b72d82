"""Programs in any language as models: real ones, in node, awk, sh and Python, and what each kind of
them may do wrong.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from shared import ended, is_settled, outcomes, settle, wait_until

import mltrigger as mt
from mltrigger.errors import InvalidModel, ModelFailure, NotFound
from mltrigger.testing import SimulatedClock
from mltrigger.versions.address import Address
from mltrigger.versions.running.capture import MAX_STDOUT, captured
from mltrigger.versions.scheme import HOLD_S, Description, Endpoint, Setting, scheme_of

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="processes cannot be killed as a group there"
)

NODE = pytest.mark.needs("node")
PYTHON = shlex.quote(sys.executable)
AWK = "mawk -W interactive" if shutil.which("mawk") else "awk"

Open = Callable[..., Endpoint]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def opened() -> Iterator[Open]:
    """Open endpoints, which are closed at the end."""
    with contextlib.ExitStack() as stack:

        def make(
            text: str, timeout_s: float = 30.0, concurrency: int = 1, **options: Any
        ) -> Endpoint:
            address = Address.of(text, options)
            endpoint = scheme_of(address).open(address, Setting(timeout_s, concurrency))
            stack.callback(endpoint.close)
            return endpoint

        yield make


def described(text: str, **options: Any) -> Description:
    address = Address.of(text, options)
    return scheme_of(address).describe(address)


def script(name: str, source: str) -> str:
    """Write a program of this working directory; return the address of a model that runs it."""
    Path(name).write_text(textwrap.dedent(source))
    Path(name).chmod(0o755)
    return f"command:{ {'.py': PYTHON, '.js': 'node', '.sh': 'sh'}[Path(name).suffix] } {name}"


def answering(body: str) -> str:
    """Return the address of a Python program that answers each line; *body* is what it does with
    ``data``.
    """
    body = textwrap.indent(textwrap.dedent(body).strip(), "    ")
    return script(
        "program.py",
        "import json, os, sys, time\nfor line in sys.stdin:\n    data = json.loads(line)\n"
        + body
        + "\n",
    )


def answer_of(body: str) -> str:
    """Return the address of a Python program that answers each line with what *body* calls
    ``answer``.
    """
    return answering(textwrap.dedent(body) + "\nprint(json.dumps(answer), flush=True)")


def ask(endpoint: Endpoint, *data: Any) -> list[Any]:
    return list(endpoint.call([mt.Event(d) for d in data]))


def told(outputs: list[Any]) -> list[Any]:
    """Return the outputs, of a failure its reason."""
    return [o.reason if isinstance(o, ModelFailure) else o for o in outputs]


def failed(endpoint: Endpoint, data: Any = None) -> ModelFailure:
    (output,) = ask(endpoint, data)
    assert isinstance(output, ModelFailure), output
    return output


def pid_in(file: str) -> int:
    return int(wait_until(lambda: Path(file).exists() and Path(file).read_text().strip()))


# -- one process, line by line ---------------------------------------------------------------------


@NODE
def test_a_node_program_answers_every_event_from_one_process(opened: Open) -> None:
    source = """
        require('readline').createInterface({input: process.stdin}).on('line', line => {
            const data = JSON.parse(line)
            console.log(JSON.stringify({words: data.text.split(' ').length, pid: process.pid}))
        })
    """
    endpoint = opened(script("count.js", source))

    one = ask(endpoint, {"text": "a b c"}, {"text": "ä\n\u2028 x"})
    two = ask(endpoint, {"text": ""})

    assert [o["words"] for o in one + two] == [3, 2, 1]
    assert len({o["pid"] for o in one + two}) == 1


def test_an_awk_program_counts_words(opened: Open) -> None:
    endpoint = opened(f"command:{AWK} '{{ print NF; fflush() }}'", input="text")

    assert ask(endpoint, "a b c", "", "x y") == [3, 0, 2]


def test_a_shell_script_reads_its_stdin_by_name(opened: Open) -> None:
    endpoint = opened(script("echo.sh", 'while read -r line; do echo "$line"; done < /dev/stdin\n'))

    assert ask(endpoint, {"a": 1}, [None]) == [{"a": 1}, [None]]


def test_an_executable_script_is_run_by_its_own_first_line(opened: Open) -> None:
    script(
        "score.py",
        f"#!{sys.executable}\nimport sys\nfor line in sys.stdin: print(sys.argv[1:],"
        " file=sys.stderr), print(line, end='', flush=True)\n",
    )

    assert ask(opened("command:./score.py --json"), {"a": 1}) == [{"a": 1}]


def test_many_events_of_a_call_wait_for_the_program_at_once(opened: Open) -> None:
    source = """
        import os
        while chunk := os.read(0, 1 << 20):
            count = chunk.count(b"\\n")
            os.write(1, b"%d\\n" % count * count)
    """
    endpoint = opened(script("chunks.py", source))

    answers = ask(endpoint, *range(500))

    assert len(answers) == 500
    assert answers[0] == 1
    assert max(answers) > 10


def test_lines_of_ten_megabytes_pass_both_ways_although_the_pipes_are_full(opened: Open) -> None:
    endpoint = opened("command:cat")
    large = ["x" * 10_000_000, "y" * 10_000_000, "z"]

    assert [a[-1] + str(len(a)) for a in ask(endpoint, *large)] == ["x10000000", "y10000000", "z1"]


def test_values_that_json_has_not_arrive_tagged_and_come_back(opened: Open) -> None:
    (answer,) = ask(opened("command:cat"), {"bytes": b"\xff", "nan": float("nan")})

    assert answer["bytes"] == b"\xff"
    assert answer["nan"] != answer["nan"]


def test_nan_is_accepted_as_programs_write_it(opened: Open) -> None:
    (answer,) = ask(
        opened(script("nan.sh", "while read -r line; do echo '[NaN, -Infinity]'; done")), None
    )

    assert str(answer) == "[nan, -inf]"


def test_a_line_of_text_is_an_answer_when_that_was_agreed_on(opened: Open) -> None:
    endpoint = opened(
        script("say.sh", "while read -r line; do printf 'got %s\\r\\n' \"$line\"; done"),
        output="text",
    )

    assert ask(endpoint, 1, "ä") == ["got 1", 'got "ä"']


def test_the_whole_event_is_a_cloudevent(opened: Open) -> None:
    (answer,) = opened("command:cat", input="event").call(
        [mt.Event({"a": 1}, id="i", type="t", source="s")]
    )

    assert {name: answer[name] for name in ("specversion", "id", "type", "source", "data")} == {
        "specversion": "1.0",
        "id": "i",
        "type": "t",
        "source": "s",
        "data": {"a": 1},
    }


@pytest.mark.parametrize(
    ("data", "message"), [("a\nb", "line break"), ({"a": 1}, "not dict"), (None, "not NoneType")]
)
def test_data_that_are_no_line_of_text_are_dead_and_their_neighbours_answered(
    opened: Open, data: Any, message: str
) -> None:
    endpoint = opened("command:cat", input="text", output="text")

    first, refused, last = ask(endpoint, "one", data, "two")

    assert (first, last) == ("one", "two")
    assert (refused.reason, refused.permanent) == ("invalid_input", True)
    assert message in str(refused)


def test_four_calls_at_a_time_have_a_process_each(opened: Open, folder: Path) -> None:
    source = """
        open(str(data), "w").close()
        while not all(os.path.exists(str(n)) for n in range(4)): time.sleep(0.002)
        answer = os.getpid()
    """
    endpoint = opened(answer_of(source), concurrency=4)
    with ThreadPoolExecutor(4) as threads:
        first = {a for (a,) in threads.map(lambda n: ask(endpoint, n), range(4))}
        again = {a for (a,) in threads.map(lambda n: ask(endpoint, n), [0] * 40)}

    assert len(first) == 4
    assert again <= first


# -- one process an event --------------------------------------------------------------------------


def test_each_event_has_a_process_whose_stdin_ends(opened: Open) -> None:
    source = (
        "import json, os, sys\ndata = json.loads(sys.stdin.read())\nprint(json.dumps([data,"
        " os.getpid()]))\n"
    )
    endpoint = opened(script("once.py", source), mode="each")

    (one, first), (two, second) = ask(endpoint, {"a": "x\ny"}, 2)

    assert not endpoint.batches
    assert (one, two) == ({"a": "x\ny"}, 2)
    assert first != second


def test_text_and_bytes_go_in_and_out_as_they_are(opened: Open) -> None:
    assert ask(opened("command:wc -l", mode="each", input="text"), "a\nb\n") == [2]
    assert ask(opened("command:sort", mode="each", input="text", output="text"), "b\na\n") == [
        "a\nb"
    ]
    assert ask(
        opened("command:cat", mode="each", input="bytes", output="bytes"), b"\x89PNG\xff"
    ) == [b"\x89PNG\xff"]


def test_a_program_need_not_read_its_input(opened: Open) -> None:
    assert ask(opened("command:echo 7", mode="each"), "x" * 1_000_000) == [7]


def test_ten_megabytes_pass_through_a_process_of_their_own(opened: Open) -> None:
    (answer,) = ask(opened("command:cat", mode="each"), "x" * 10_000_000)

    assert len(answer) == 10_000_000


def test_a_process_that_closes_its_stdout_early_is_waited_for(opened: Open) -> None:
    source = (
        "import os, time\nos.write(1, b'5')\nos.close(1)\ntime.sleep(0.1)\nopen('done',"
        " 'w').close()\n"
    )

    assert ask(opened(script("early.py", source), mode="each"), None) == [5]
    assert Path("done").exists()


def test_what_a_program_leaves_behind_is_killed_and_its_answer_kept(opened: Open) -> None:
    endpoint = opened(script("leave.sh", "sleep 1000000 &\necho $! > pid\necho 5\n"), mode="each")

    assert ask(endpoint, None) == [5]
    assert wait_until(lambda: ended(pid_in("pid")))


@pytest.mark.parametrize(
    ("code", "reason", "permanent"),
    [
        (1, "model_error", False),
        (2, "model_error", False),
        (65, "rejected", True),
        (75, "retry", False),
        (127, "model_error", False),
    ],
)
def test_exit_codes_say_what_became_of_the_event(
    opened: Open, code: int, reason: str, permanent: bool
) -> None:
    failure = failed(
        opened(
            script(
                "fail.sh", f"echo no use\necho reading >&2\necho bad weights >&2\nexit {code}\n"
            ),
            mode="each",
        )
    )

    assert (failure.reason, failure.permanent, failure.kind) == (
        reason,
        permanent,
        f"exit code {code}",
    )
    assert str(failure) == f"the program 'sh' ended with exit code {code}: bad weights"
    assert failure.detail == "reading\nbad weights\n"


def test_a_signal_is_a_death(opened: Open) -> None:
    failure = failed(opened(script("abort.sh", "kill -ABRT $$\n"), mode="each"))

    assert (failure.reason, failure.kind, failure.permanent) == (
        "worker_died",
        "ProcessDied",
        False,
    )
    assert str(failure) == "the program 'sh' was killed by SIGABRT before it answered"


def test_the_end_of_stderr_is_kept_with_a_failure(opened: Open) -> None:
    failure = failed(
        opened(
            script(
                "long.py",
                "import sys\nprint('x' * 500_000 + '\\nlast words',"
                " file=sys.stderr)\nsys.exit(1)\n",
            ),
            mode="each",
        )
    )

    assert str(failure).endswith(": last words")
    assert (failure.detail or "").endswith("xx\nlast words\n")
    assert len(failure.detail or "") < 5000


# -- what it prints --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["lines", "each"])
def test_stderr_is_printed_by_the_thread_that_calls(opened: Open, mode: str) -> None:
    endpoint = opened(
        script("talk.sh", "while read -r line; do printf 'said \\377\\n' >&2; echo 1; done"),
        mode=mode,
    )
    texts = []
    with captured() as printed:
        for _ in range(2):
            ask(endpoint, None)
            texts.append(printed.take())

    assert texts == ["said \\xff\n"] * 2


def test_megabytes_on_stderr_do_not_block_and_are_cut(opened: Open) -> None:
    endpoint = opened(answer_of("os.write(2, b'e' * 10_000_000); answer = data"))
    with captured() as printed:
        outputs = ask(endpoint, 1)
    text = printed.take() or ""

    assert outputs == [1]
    assert text.endswith("more bytes)")
    assert len(text) <= MAX_STDOUT


# -- what an answer may be -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reason", "permanent", "delay_s"),
    [
        ({"$error": "m"}, "model_error", False, None),
        ({"$error": "m", "permanent": True}, "rejected", True, None),
        (
            {"$error": "m", "permanent": True, "reason": "no_such_customer"},
            "no_such_customer",
            True,
            None,
        ),
        ({"$error": "m", "delay_s": 5}, "model_error", False, 5.0),
        ({"$error": "m", "delay_s": -5}, "model_error", False, 0.0),
        ({"$error": "m", "delay_s": "soon", "permanent": "yes"}, "model_error", False, None),
        ({"$error": "m", "reason": "stopped"}, "model_error", False, None),
        ({"$error": "m", "reason": "no_process"}, "model_error", False, None),
        ({"$error": "m", "reason": "Not A Code\n"}, "model_error", False, None),
    ],
)
def test_an_error_line_fails_its_event_alone(
    opened: Open, answer: Any, reason: str, permanent: bool, delay_s: float | None
) -> None:
    one, failure, two = ask(opened("command:cat"), 1, answer, 2)

    assert (one, two) == (1, 2)
    assert (failure.reason, failure.permanent, failure.delay_s, str(failure)) == (
        reason,
        permanent,
        delay_s,
        "m",
    )


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("Loading weights…".encode(), "is not JSON"),
        (b"", "is empty"),
        (b"\xff\xfe\x00", "is not UTF-8"),
        (b"{'a': 1}", "is not JSON"),
        (b"1 2", "is not JSON"),
        (b"9" * 5000, "that Python refuses"),
        (b"[" * 200 + b"]" * 200, "nested deeper"),
    ],
    ids=range(7),
)
def test_a_line_that_is_no_answer_fails_its_event_and_the_process_is_replaced(
    opened: Open, line: bytes, problem: str
) -> None:
    Path("line").write_bytes(line + b"\n")
    endpoint = opened(
        answering(
            "os.write(1, open('line', 'rb').read() if data == 'bad' else b'%d\\n' % os.getpid())"
        )
    )

    one, failure, two = ask(endpoint, 1, "bad", 2)

    assert (failure.reason, failure.permanent) == ("bad_answer", False)
    assert problem in str(failure)
    assert isinstance(one, int)
    assert isinstance(two, int)
    assert one != two


def test_more_lines_than_were_asked_for_fail_the_event_that_caused_them(opened: Open) -> None:
    endpoint = opened(
        answering(
            "print(data, flush=False)\nif data == 3: print(33, flush=False)\nsys.stdout.flush()"
        )
    )
    ask(endpoint, *range(50, 60))  # from now on several lines wait at once

    outputs = ask(endpoint, *range(4))  # both lines come at once, and nothing after them

    assert told(outputs) == [0, 1, 2, "bad_answer"]
    assert "wrote more lines than it was asked for" in str(outputs[3])


def test_a_line_that_comes_when_nobody_asks_replaces_the_process(opened: Open) -> None:
    endpoint = opened(
        answering(
            "print(os.getpid(), flush=True)\nif data == 'chatter': time.sleep(0.05); print('extra',"
            " flush=True)\nopen('done', 'w').close()"
        )
    )
    (first,) = ask(endpoint, "chatter")
    wait_until(Path("done").exists)
    with captured() as printed:
        (second,) = ask(endpoint, "x")

    assert first != second
    assert "wrote a line that nobody asked for" in (printed.take() or "")


@pytest.mark.parametrize("mode", ["lines", "each"])
def test_an_answer_without_end_is_stopped_at_the_limit(opened: Open, mode: str) -> None:
    failure = failed(opened("command:cat /dev/zero", mode=mode, max_answer_mb=2))

    assert (failure.reason, failure.permanent) == ("result_too_large", True)
    assert "2,097,152 bytes; max_answer_mb" in str(failure)


def test_an_answer_over_the_limit_fails_alone(opened: Open) -> None:
    endpoint = opened("command:cat", max_answer_mb=0.1)
    ask(endpoint, *range(10))

    assert told(ask(endpoint, 1, "x" * 200_000, 2)) == [1, "result_too_large", 2]


@pytest.mark.parametrize(
    ("written", "problem"),
    [("", "is empty"), ("1\\n2\\n", "is not JSON"), ("\\377", "is not UTF-8")],
)
def test_a_document_that_is_no_answer_fails(opened: Open, written: str, problem: str) -> None:
    failure = failed(opened(script("write.sh", f"printf '{written}'"), mode="each"))

    assert failure.reason == "bad_answer"
    assert problem in str(failure)


# -- what hangs ------------------------------------------------------------------------------------


def test_a_program_that_does_not_flush_is_stopped_with_a_hint(opened: Open) -> None:
    endpoint = opened(answering("print(data)"), timeout_s=0.5)
    failure, other = ask(endpoint, 1, 2)

    assert (failure.reason, failure.kind) == ("timeout", "TimeoutError")
    assert "does it flush each line? mode='each'" in str(failure)
    assert other.reason == "no_process"


@pytest.mark.parametrize("mode", ["lines", "each"])
def test_a_program_that_ignores_sigterm_is_killed_with_all_that_it_started(
    opened: Open, mode: str
) -> None:
    source = (
        "trap '' TERM HUP INT\nsleep 1000000 &\necho $! > child\necho $$ > pid\necho begun"
        " >&2\nwhile :; do sleep 1000; done\n"
    )
    endpoint = opened(script("hang.sh", source), timeout_s=1.0, mode=mode)
    with captured() as printed:
        failure = failed(endpoint)

    assert failure.reason == "timeout"
    assert printed.take() == "begun\n"
    assert wait_until(lambda: ended(pid_in("pid")) and ended(pid_in("child")))


def test_what_was_answered_before_a_timeout_is_kept_and_the_rest_comes_again(opened: Open) -> None:
    endpoint = opened(
        answer_of("time.sleep(1e6 if data == 'hang' else 0); answer = os.getpid()"), timeout_s=2.0
    )
    (pid,) = ask(endpoint, 0)

    assert told(ask(endpoint, 1, "hang", 3)) == [pid, "timeout", "no_process"]
    assert ask(endpoint, 4) != [pid]


def test_a_slow_program_is_not_begun_with_what_it_cannot_finish(opened: Open) -> None:
    endpoint = opened(answer_of("time.sleep(0.3); answer = data"), timeout_s=2.0)
    ask(endpoint, "begin")

    outputs = told(ask(endpoint, *range(8)))

    assert outputs[0] == 0
    assert outputs[-1] == "no_process"
    assert "timeout" not in outputs
    assert told(ask(endpoint, 7)) == [7]


def test_a_trickle_without_a_line_break_is_no_progress(opened: Open) -> None:
    began = time.monotonic()
    failure = failed(
        opened(answering("while True: os.write(1, b'1'); time.sleep(0.001)"), timeout_s=0.5)
    )

    assert failure.reason == "timeout"
    assert time.monotonic() - began < 10


def test_a_program_that_does_not_read_times_out_as_well(opened: Open) -> None:
    assert (
        failed(opened("command:sleep 1000000", timeout_s=0.5), "x" * 10_000_000).reason == "timeout"
    )
    assert (
        failed(opened("command:sleep 1000000", timeout_s=0.5, mode="each"), "x" * 10_000_000).reason
        == "timeout"
    )


# -- what dies -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "reason", "how"),
    [
        (
            "os.kill(os.getpid(), 9)",
            "worker_died",
            "was killed by SIGKILL (so does the kernel when memory runs out) before it answered",
        ),
        ("os._exit(9)", "model_error", "ended with exit code 9 before it answered"),
        (
            "sys.exit('no such rate')",
            "model_error",
            "ended with exit code 1 before it answered: no such rate",
        ),
        ("{}[data]", "model_error", "ended with exit code 1 before it answered: KeyError: 3"),
    ],
)
@pytest.mark.parametrize("flush", [True, False])
def test_only_the_event_that_ends_the_program_fails(
    opened: Open, flush: bool, end: str, reason: str, how: str
) -> None:
    endpoint = opened(
        answering(
            f"if data == 3: {end}\nprint(data, flush={flush})"
            + ("" if flush else "\nif data > 5 or data < 0: sys.stdout.flush()")
        )
    )
    ask(endpoint, *[-1] * 20)

    outputs = ask(endpoint, *([1, 2, 3, 4, 5] if flush else [8, 3, 9]))

    assert told(outputs) == ([1, 2, reason, 4, 5] if flush else [8, reason, 9])
    assert (
        str(next(o for o in outputs if isinstance(o, ModelFailure)))
        == f"the program {Path(sys.executable).name!r} {how}"
    )


def test_the_last_words_of_a_dead_program_are_kept(opened: Open) -> None:
    with captured() as printed:
        failure = failed(opened(answering("raise KeyError('weights')")))

    assert "KeyError: 'weights'" in (failure.detail or "")
    assert "KeyError: 'weights'" in (printed.take() or "")


def test_a_line_without_its_end_is_no_answer(opened: Open) -> None:
    failure = failed(opened(script("half.sh", "read -r line; printf 1")))

    assert failure.reason == "model_error"
    assert str(failure).endswith(
        "ended with exit code 0 before it answered (its last line has no line break)"
    )


def test_a_program_may_end_in_good_order_after_any_answer(opened: Open) -> None:
    text = answer_of("data = line = [data, os.getpid()]; answer = data")
    Path("program.py").write_text(
        Path("program.py").read_text() + "    if data[0] % 3 == 0: break\n"
    )
    endpoint = opened(text)

    outputs = [*ask(endpoint, *range(1, 11)), *ask(endpoint, 11)]

    assert [o[0] for o in outputs] == list(range(1, 12))
    assert len({o[1] for o in outputs}) == 4


def test_a_program_that_died_between_two_events_is_replaced_silently(opened: Open) -> None:
    endpoint = opened(answer_of("answer = os.getpid()"))
    (pid,) = ask(endpoint, None)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    assert told(ask(endpoint, None))[0] not in (pid, "worker_died")


def test_a_death_is_noticed_although_a_process_of_the_program_holds_the_pipes(opened: Open) -> None:
    began = time.monotonic()
    source = "read -r line\necho 1\nread -r line\nsetsid sleep 1000000 &\necho $! > pid\nexit 3\n"
    endpoint = opened(script("hold.sh", source), timeout_s=60)

    assert told(ask(endpoint, 1, 2)) == [1, "model_error"]
    assert time.monotonic() - began < 20
    os.kill(pid_in("pid"), signal.SIGKILL)


# -- where it is not there -------------------------------------------------------------------------


def test_a_program_that_has_gone_is_nobodys_failure(opened: Open, folder: Path) -> None:
    script("score.sh", "#!/bin/sh\ncat\n")
    endpoint = opened("command:./score.sh")
    Path("score.sh").unlink()

    failure = failed(endpoint)

    assert (failure.reason, str(failure)) == (
        "no_process",
        "the program 'score.sh' could not be started: No such file or directory",
    )
    with pytest.raises(ModelFailure, match="could not be started"):
        endpoint.warm_up()


@pytest.mark.parametrize("mode", ["each", "lines"])
def test_a_file_that_was_edited_never_runs_as_the_version_that_was_registered(
    opened: Open, mode: str
) -> None:
    text = script("score.sh", "read -r line; echo 1\n")
    endpoint = opened(text, mode=mode)
    assert ask(endpoint, None) == [1]

    script("score.sh", "read -r line; echo 22\n")

    # when the process before has ended
    wait_until(lambda: failed(endpoint).reason == "model_unavailable", timeout_s=30)
    for _ in range(2):
        failure = failed(endpoint)
        assert (failure.reason, failure.permanent, failure.throttled, failure.whole) == (
            "model_unavailable",
            False,
            True,
            True,
        )
        assert failure.delay_s == HOLD_S
        assert (
            "'sh': score.sh has changed since the version was registered; register it under a new"
            " version" in str(failure)
        )
    script("score.sh", "read -r line; echo 1\n")
    assert ask(endpoint, None) == [1]


def test_a_file_that_is_written_anew_as_it_was_runs_on(opened: Open) -> None:
    endpoint = opened(script("score.sh", "read -r line; echo 1\n"), mode="each")
    os.utime("score.sh", ns=(1, 1))

    assert ask(endpoint, None) == [1]


def test_a_file_that_the_program_makes_is_no_other_version(opened: Open) -> None:
    endpoint = opened(
        script("score.sh", 'read -r line; echo "$line" >> "$1"; echo 1\n') + " made.log",
        mode="each",
    )

    assert ask(endpoint, 5, 6) == [1, 1]
    assert Path("made.log").read_text() == "5\n6\n"


def test_a_process_that_runs_goes_on_with_what_it_has_read(opened: Open) -> None:
    endpoint = opened(answer_of("answer = 1"))
    assert ask(endpoint, None) == [1]

    answer_of("answer = 2")

    assert ask(endpoint, None) == [1]


def test_a_file_that_is_no_program_says_what_is_missing(opened: Open) -> None:
    Path("score").write_text("cat\n")
    Path("score").chmod(0o755)

    assert "Exec format error; a script begins with a line such as #!/bin/sh" in str(
        failed(opened("command:./score"))
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "import no_such_module\n",
            (
                "ended with exit code 1 before it was asked for anything: ModuleNotFoundError: No"
                " module named"
            ),
        ),
        (
            "print(7)\n",
            (
                "ended with exit code 0 before it was asked for anything; is it for one event."
                " mode='each' runs it once an event"
            ),
        ),
        (
            "print('ready', flush=True)\ninput()\n",
            "wrote 'ready' before it was asked for anything: stdout is for answers only",
        ),
    ],
)
def test_a_program_that_does_not_wait_for_events_is_noticed_before_one_is_received(
    opened: Open, source: str, message: str
) -> None:
    with pytest.raises(ModelFailure, match=message):
        # again, when the machine took too long to start it
        wait_until(lambda: opened(script("hasty.py", source)).warm_up(), timeout_s=30)


@NODE
def test_the_error_of_a_node_program_is_told_not_what_follows_it(opened: Open) -> None:
    failure = failed(
        opened(
            script("throw.js", "function f() { throw new TypeError('no weights') }\nf()\n"),
            mode="each",
        )
    )

    assert str(failure) == "the program 'node' ended with exit code 1: TypeError: no weights"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("command:nod score.js", r"no program 'nod' in the \d+ folders of PATH"),
        (
            "command:no-such-program-at-all",
            r"no program 'no-such-program-at-all' in the \d+ folders of PATH$",
        ),
        ("command:score.sh", r"in the working directory: command:./score.sh"),
        (
            "command:./scor.sh",
            (
                r"no program './scor.sh' in the working directory; did you mean 'score.sh' in the"
                r" same folder"
            ),
        ),
        (
            "command:/nowhere/else/score",
            r"no program 'score' in the working directory$|no program 'score'",
        ),
        ("command:~/score.sh", "~ and .VARIABLES mean nothing without a shell"),
        (
            "command:./plain.txt",
            r"'./plain.txt' is not executable: chmod \+x ./plain.txt .*command:node score.js",
        ),
        ("command:./sub", "is a folder"),
        ("command:   ", "names a program"),
        ("command:''", "names a program"),
        (
            "command:sh 'open",
            "No closing quotation; it is split as a shell would, but no shell runs",
        ),
        ("command:./score.sh | head", "'|' is for a shell, and no shell runs"),
        ("command:./score.sh > out", "'>' is for a shell"),
        ("command:./score.sh a\0b", "NUL"),
        ("command:./score.sh --password=hunter2secret", "everybody can read it.*env="),
        ("command:./score.sh postgresql://me:pw123456@host/db", "everybody can read it"),
    ],
)
def test_what_cannot_be_run_is_refused_with_what_to_do(
    text: str, message: str, folder: Path
) -> None:
    script("score.sh", "#!/bin/sh\ncat\n")
    Path("plain.txt").touch(0o644)
    Path("sub").mkdir()

    with pytest.raises(InvalidModel, match=message.replace("'|'", r"'\|'")) as raised:
        described(text)
    assert str(folder) not in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mod": "each"}, NotFound, "did you mean 'mode'"),
        ({"mode": "line"}, NotFound, "did you mean 'lines'"),
        ({"input": "json"}, NotFound, "known: 'bytes', 'data', 'event', 'text'"),
        ({"output": 1}, InvalidModel, "must be str"),
        ({"input": "bytes"}, InvalidModel, "input='bytes' needs mode='each'"),
        ({"output": "bytes"}, InvalidModel, "output='bytes' needs mode='each'"),
        ({"env": ["TOKEN=abc"]}, InvalidModel, "without values"),
        ({"env": [1]}, InvalidModel, "list of names"),
        ({"env": "TOKEN"}, InvalidModel, "must be list"),
        ({"max_answer_mb": 0}, InvalidModel, "from 0 to 1024"),
        ({"max_answer_mb": True}, InvalidModel, "must be int or float"),
        ({"cwd": "nowhere"}, InvalidModel, "cwd 'nowhere' is no folder"),
        ({"files": ["weights.bin"]}, InvalidModel, "no file 'weights.bin'"),
    ],
)
def test_a_wrong_option_is_refused_when_the_model_is_described(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        described("command:cat", **options)


# -- what it is given ------------------------------------------------------------------------------


def test_a_program_gets_a_small_environment_and_what_was_named(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "MODEL_TOKEN", "MODEL_URL", "LC_TIME"):
        monkeypatch.setenv(name, f"value of {name}")
    source = "import json, os\nprint(json.dumps(dict(os.environ)))\n"

    (plain,) = ask(opened(script("env.py", source), mode="each"), None)
    (named,) = ask(opened(script("env.py", source), mode="each", env=["MODEL_*"]), None)

    assert "AWS_SECRET_ACCESS_KEY" not in plain | named
    assert plain["LC_TIME"] == "value of LC_TIME"
    assert {"MODEL_TOKEN", "MODEL_URL"} & set(plain) == set()
    assert named["MODEL_TOKEN"] == "value of MODEL_TOKEN"


def test_a_variable_that_was_named_and_is_not_set_is_told(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODEL_TOKEN", raising=False)
    endpoint = opened("command:cat", env=["MODEL_TOKEN"])

    with pytest.raises(
        ModelFailure, match="environment variable MODEL_TOKEN, which 'cat' is to have, is not set"
    ):
        endpoint.warm_up()
    assert failed(endpoint).reason == "no_process"


def test_words_are_arguments_as_they_are(opened: Open) -> None:
    endpoint = opened(
        "command:printf '%s|' $HOME '`id`' 'a  b' ';' --x", mode="each", output="text"
    )

    assert ask(endpoint, None) == ["$HOME|`id`|a  b|;|--x|"]


def test_nothing_of_an_event_becomes_an_argument_or_a_variable(opened: Open) -> None:
    source = (
        "import json, os, sys\nprint(json.dumps(sys.argv + list(os.environ) +"
        " list(os.environ.values())))\n"
    )
    endpoint = opened(script("given.py", source) + " --fixed", mode="each", input="event")
    event = mt.Event("CANARY", subject="CANARY", extensions={"canary": "CANARY"})

    (given,) = endpoint.call([event])

    assert given[:2] == ["given.py", "--fixed"]
    assert not [word for word in given if "canary" in word.lower()]


def test_it_runs_where_cwd_says(opened: Open, folder: Path) -> None:
    Path("models").mkdir()
    os.chdir("models")
    script("where.sh", "#!/bin/sh\npwd\n")
    os.chdir("..")

    assert ask(opened("command:./where.sh", cwd="models", mode="each", output="text"), None) == [
        str(folder / "models")
    ]
    assert described("command:./where.sh", cwd="models").content


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_it_inherits_no_files_of_this_process(opened: Open, folder: Path) -> None:
    with (folder / "secret.db").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        (listing,) = ask(opened("command:ls -l /proc/self/fd", mode="each", output="text"), None)

    assert "pipe:" in listing
    assert "secret" not in listing


# -- what it is called, and what belongs to it -----------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("command:./score.sh --json", "score"),
        ("command:sh score.sh", "score"),
        ("command:awk -f words.awk", "words"),
        ("command:/usr/bin/env sh score.sh x", "score"),
        ("command:cat", "cat"),
        ("command:wc -l", "wc"),
        (f"command:{PYTHON} -m http.server", "server"),
        ("command:sh -c 'cat'", "sh"),
        ("command:'./my model v1.2.sh'", "my-model-v1.2"),
    ],
)
def test_a_model_is_called_like_its_script(text: str, name: str) -> None:
    for file in ("score.sh", "words.awk", "my model v1.2.sh"):
        Path(file).touch(0o755)

    assert described(text).name == name


def test_the_files_among_the_arguments_are_the_content(folder: Path) -> None:
    text = script("score.sh", "cat\n")
    first = described(text).content

    assert first == described(text).content != ""
    Path("score.sh").write_text("cat -u\n")
    assert described(text).content != first
    assert described("command:cat").content == ""


def test_files_can_be_named_that_are_no_arguments(folder: Path) -> None:
    text = script("score.sh", "cat\n")
    Path("weights.bin").write_bytes(b"1")
    one = described(text, files=["score.sh", "weights.bin"]).content
    Path("weights.bin").write_bytes(b"2")

    assert described(text, files=["score.sh", "weights.bin"]).content != one
    assert described(f"{text} --weights=weights.bin").content != described(text).content
    assert described(text, files=[]).content == ""


# -- the end ---------------------------------------------------------------------------------------


def test_closing_lets_idle_programs_end_by_themselves(opened: Open) -> None:
    text = answer_of("answer = os.getpid()")
    Path("program.py").write_text(
        Path("program.py").read_text() + "time.sleep(0.05)\nopen('tidied', 'w').close()\n"
    )
    endpoint = opened(text)
    (pid,) = ask(endpoint, None)

    endpoint.close()
    endpoint.close()

    assert Path("tidied").exists()
    assert ended(pid)
    assert failed(endpoint).reason == "stopped"


def test_closing_kills_what_does_not_end(opened: Open) -> None:
    text = answer_of("answer = os.getpid()")
    Path("program.py").write_text(Path("program.py").read_text() + "while True: time.sleep(1000)\n")
    endpoint = opened(text)
    (pid,) = ask(endpoint, None)
    endpoint.close()

    assert ended(pid)


def test_closing_cuts_off_a_call_that_nobody_waits_for(opened: Open) -> None:
    endpoint = opened(script("hang.sh", "echo $$ > pid\nsleep 1000000\n"))
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(failed, endpoint)
        pid = pid_in("pid")
        endpoint.close()

        assert running.result(30).reason == "stopped"
    assert ended(pid)


def test_an_endpoint_that_nobody_closed_leaves_no_process() -> None:
    address = Address.of(answer_of("answer = os.getpid()"), {})
    endpoint = scheme_of(address).open(address, Setting())
    (pid,) = ask(endpoint, None)
    del endpoint

    assert wait_until(lambda: ended(pid))


PARENT = """
import sys
from mltrigger import Event
from mltrigger.versions.address import Address
from mltrigger.versions.scheme import Setting, scheme_of
address = Address.of("command:sh deaf.sh", {})
scheme_of(address).open(address, Setting(1000.0)).call([Event()])
"""
ISOLATED = """
from mltrigger import Event
from mltrigger.versions.describe import as_model
from mltrigger.versions.running.workers.invoker import WorkerInvoker
from mltrigger.versions.running.workers.processes import Processes
model = as_model("command:sh deaf.sh")
WorkerInvoker(model, Processes(model, None, 1000.0)).one(Event())
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere a program is told by the end of its stdin only"
)
@pytest.mark.parametrize("source", [PARENT, ISOLATED], ids=["a thread", "isolated"])
def test_a_parent_that_is_killed_leaves_no_program(source: str) -> None:
    # It waits for the event: from then on the kernel knows whom to kill.
    script(
        "deaf.sh",
        "read event\nsleep 1000000 &\necho $! > child\necho $$ > pid\nexec sleep 1000000\n",
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    parent = subprocess.Popen([sys.executable, "-c", source], env=environment)
    pids = [pid_in("pid"), pid_in("child")]
    parent.kill()
    parent.wait()

    assert wait_until(lambda: all(map(ended, pids)))


def test_an_interrupt_of_the_terminal_does_not_reach_the_program(opened: Open) -> None:
    (answer,) = ask(opened(answer_of("answer = [os.getpid(), os.getpgrp(), os.getsid(0)]")), None)

    assert len(set(answer)) == 1


# -- through a bus ---------------------------------------------------------------------------------

in_memory = pytest.mark.parametrize("url", ["memory"], indirect=True)


@in_memory
def test_answers_are_columns_and_stderr_is_kept_with_the_invocation(bus: mt.EventBus) -> None:
    address = answer_of(
        "print('read', data['a'], file=sys.stderr, flush=True); answer = {'twice': 2 * data['a'],"
        " 'pid': os.getpid()}"
    )
    sub = bus.subscribe("numbers", mt.model(address, name="twice", version="1.0.0"), batch_size=1)

    frame = bus.fire("numbers", [{"a": n} for n in range(5)]).results()

    assert sorted(frame["twice"]) == [0, 2, 4, 6, 8]
    assert frame["pid"].nunique() == 1
    assert set(sub.invocations()["stdout"]) == {f"read {n}\n" for n in range(5)}
    assert bus.models().set_index("model").loc["twice", "kind"] == "command"


@in_memory
def test_an_event_that_kills_its_program_is_dead_after_three_deaths(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    sub = bus.subscribe(
        "numbers",
        mt.model(
            answer_of("answer = data if data != 3 else os.kill(os.getpid(), 9)"), name="fragile"
        ),
    )
    bus.publish_batch("numbers", range(6))
    settle(bus, clock, sub)

    frame = sub.invocations()
    died = frame[frame["reason"] == "worker_died"]
    assert list(died["outcome"]) == ["failed", "failed", "dead"]
    assert set(died["error_type"]) == {"ProcessDied"}
    assert (frame["outcome"] == "succeeded").sum() == 5
    assert list(sub.dead_letters()["reason"]) == ["worker_died"]
    assert bus.audit()["balanced"].all()


@in_memory
def test_an_exception_of_a_program_is_its_models_error_and_counts_as_one(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    address = answer_of("answer = {'at': 0.2}[data['country']]")
    sub = bus.subscribe("bills", mt.model(address, name="tax"), max_attempts=1)
    bus.publish_batch("bills", [{"country": country} for country in ("at", "xx", "at")])
    settle(bus, clock, sub)

    assert sorted(outcomes(sub)) == ["dead", "succeeded", "succeeded"]
    (dead,) = sub.dead_letters().to_dict("records")
    assert (dead["reason"], dead["error_type"]) == ("model_error", "exit code 1")
    assert dead["error"].endswith("ended with exit code 1 before it answered: KeyError: 'xx'")
    assert "Traceback" in dead["traceback"]


UNLOADABLE = {
    "slow python": (
        "late.py",
        "import time\ntime.sleep(0.5)\nimport a_package_that_is_not_installed\n",
        "ModuleNotFoundError",
    ),
    "slow shell": ("late.sh", "sleep 0.4\necho 'no GPU in here' >&2\nexit 3\n", "no GPU in here"),
    "at the first line": (
        "lazy.py",
        "import sys\nfor line in sys.stdin:\n    import no_such_package\n",
        "No module named 'no_such_package'",
    ),
    "a crash": ("crash.sh", "sleep 0.4\nkill -SEGV $$\n", "SIGSEGV"),
    "in good order": ("leave.sh", "sleep 0.4\n", "is it for one event?"),
}


@in_memory
@pytest.mark.parametrize("kind", UNLOADABLE)
def test_a_program_that_ends_before_it_ever_answered_could_not_be_loaded_however_long_that_took(
    kind: str, bus: mt.EventBus, clock: SimulatedClock
) -> None:
    name, source, words = UNLOADABLE[kind]
    sub = bus.subscribe("rows", mt.model(script(name, source), name="late"), max_attempts=1)
    bus.publish_batch("rows", range(4))
    for _ in range(5):  # looks, more than would make an event dead
        wait_until(lambda: "could not be loaded" in sub.state and not sub.depth().in_flight)
        clock.advance(s=40)
        bus.broker.wake(bus.registry.subscription(sub.name))
        time.sleep(0.1)
    wait_until(lambda: "could not be loaded" in sub.state and words in sub.state)

    assert any(words in finding for finding in sub.doctor()["finding"])
    attempts = sub.invocations()  # another look may be under way
    ended = attempts[attempts["outcome"] != "running"]
    assert set(zip(ended["outcome"], ended["reason"], strict=True)) == {
        ("failed", "model_unavailable")
    }
    assert sub.depth().dead == 0


@in_memory
def test_a_program_that_can_be_loaded_again_answers_all_that_waited(
    bus: mt.EventBus, clock: SimulatedClock, folder: Path
) -> None:
    source = (
        "import sys, time\ntime.sleep(0.3)\nimport weights\nfor line in sys.stdin:"
        " print(weights.of, flush=True)\n"
    )
    sub = bus.subscribe("rows", mt.model(script("late.py", source), name="late"), max_attempts=1)
    bus.publish_batch("rows", range(4))
    wait_until(lambda: "No module named 'weights'" in sub.state)

    (folder / "weights.py").write_text("of = 7\n")
    settle(bus, clock, sub)

    assert list(sub.results()["output"]) == [7] * 4


@in_memory
@pytest.mark.parametrize("batch_size", [1, 32])
def test_a_bad_first_event_holds_up_nobody_and_is_dead(
    bus: mt.EventBus, clock: SimulatedClock, batch_size: int
) -> None:
    address = answer_of("answer = {'at': 0.2}[data]")
    sub = bus.subscribe(
        "bills", mt.model(address, name="tax"), max_attempts=1, batch_size=batch_size, listen=False
    )
    bus.publish_batch("bills", ["xx", "at", "at"])
    sub.start()
    settle(bus, clock, sub)

    assert sorted(outcomes(sub)).count("succeeded") == 2
    (dead,) = sub.dead_letters().to_dict("records")
    assert (dead["reason"], dead["data"]) == ("model_error", '"xx"')


@in_memory
def test_the_only_event_that_ends_a_program_each_time_is_dead_in_the_end(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    sub = bus.subscribe(
        "bills", mt.model(answer_of("answer = {'at': 0.2}[data]"), name="tax"), max_attempts=1
    )
    bus.publish("bills", "xx")
    settle(bus, clock, sub)

    assert outcomes(sub) == ["failed", "failed", "failed", "dead"]
    assert list(sub.invocations()["reason"]) == [*["model_unavailable"] * 3, "model_error"]


def test_an_event_for_which_a_package_is_missing_is_nobodys_failure_with_a_process_an_event(
    opened: Open,
) -> None:
    failure = failed(opened(script("once.py", "import no_such_package\n"), mode="each"))

    assert (failure.reason, failure.throttled, failure.kind) == (
        "model_unavailable",
        True,
        "NotLoaded",
    )
    assert "ModuleNotFoundError: No module named 'no_such_package'" in str(failure)


def test_after_an_answer_a_missing_package_is_the_events_failure(opened: Open) -> None:
    source = "import sys, json\nif json.load(sys.stdin) == 2: import no_such_package\nprint(1)\n"

    assert told(ask(opened(script("once.py", source), mode="each"), 1, 2)) == [1, "model_error"]


def test_a_line_without_a_line_break_is_told_as_that(opened: Open) -> None:
    endpoint = opened(
        script("half.sh", "while read -r line; do printf '{\"y\":1}'; done"), timeout_s=2.0
    )
    failure = failed(endpoint)

    assert failure.reason == "timeout"
    assert """it wrote '{"y":1}' without a line break at its end: an answer ends with one""" in str(
        failure
    )
    assert "flush" not in str(failure)


@pytest.mark.parametrize(
    ("mode", "output", "read"),
    [("lines", "json", {"y": 1}), ("each", "json", {"y": 1}), ("each", "text", '{"y": 1}')],
)
def test_one_byte_order_mark_before_an_answer_of_a_program_is_left_out(
    opened: Open, mode: str, output: str, read: Any
) -> None:
    source = """while read -r line; do printf '\\357\\273\\277{"y": 1}\\n'; done"""

    assert ask(opened(script("mark.sh", source), mode=mode, output=output), 1) == [read]


@in_memory
def test_an_error_line_is_tried_again_and_a_permanent_one_is_not(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    address = answer_of("""
        first = not os.path.exists("tried")
        open("tried", "w").close()
        answer = {"$error": "no such customer", "permanent": True, "reason": "no_such_customer"} if data == "x" else data
        if data == "later" and first: answer = {"$error": "warming up", "delay_s": 7}
    """)
    sub = bus.subscribe("customers", mt.model(address, name="lookup"))
    bus.publish("customers", "later")
    settle(bus, clock, sub)
    bus.publish("customers", "x")
    settle(bus, clock, sub)

    frame = sub.invocations()
    assert list(frame["outcome"]) == ["failed", "succeeded", "dead"]
    assert list(frame["error"].dropna()) == ["warming up", "no such customer"]
    assert list(sub.dead_letters()["reason"]) == ["no_such_customer"]


@in_memory
def test_what_a_program_did_not_come_to_is_nobodys_failure(
    bus: mt.EventBus, clock: SimulatedClock
) -> None:
    address = answer_of(
        "time.sleep(1e6 if data == 2 and not os.path.exists('hung') and not open('hung',"
        " 'w').close() else 0); answer = data"
    )
    sub = bus.subscribe("numbers", mt.model(address, name="slow"), timeout_s=1.5)
    bus.publish_batch("numbers", range(5))
    settle(bus, clock, sub)

    frame = sub.invocations()
    assert list(frame[frame["outcome"] == "failed"]["reason"]) == ["timeout"]
    assert set(frame[frame["outcome"] == "interrupted"]["reason"]) == {"no_process"}
    assert sorted(sub.results()["output"]) == [0, 1, 2, 3, 4]


@in_memory
def test_a_program_runs_for_a_model_in_a_process_of_its_own(bus: mt.EventBus) -> None:
    sub = bus.subscribe(
        "numbers",
        mt.model(answer_of("answer = [data, os.getppid()]"), name="twice"),
        isolation="process",
    )

    frame = bus.fire("numbers", [1, 2]).results()

    assert [output[0] for output in frame["output"]] == [1, 2]
    assert os.getpid() not in {output[1] for output in frame["output"]}
    sub.stop()


def test_a_worker_finds_the_program_and_notices_that_it_changed(folder: Path, blank: Path) -> None:
    address = answer_of("answer = [data, os.getpid()]")
    worker = [sys.executable, "-m", "mltrigger", "worker", "--url", "sqlite:///bus.db"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with mt.connect("sqlite:///bus.db") as bus:
        sub = bus.subscribe(
            "numbers", mt.model(address, name="there", version="1.0.0"), listen=False
        )
        bus.publish_batch("numbers", range(10))
        with running(worker, environment):
            wait_until(lambda: is_settled(sub), timeout_s=60)
        assert sorted(output[0] for output in sub.results()["output"]) == list(range(10))
        pid = sub.results()["output"].iloc[0][1]
        assert wait_until(lambda: ended(pid))

        Path("program.py").write_text(Path("program.py").read_text() + "# changed\n")
        bus.publish("numbers", 11)
        with running(worker, environment) as said:
            line = wait_until(
                lambda: next((text for text in said if "not what was registered" in text), None),
                timeout_s=60,
            )
        assert "command:" in line
        assert sub.depth().visible == 1


@contextlib.contextmanager
def running(command: list[str], environment: dict[str, str]) -> Iterator[list[str]]:
    """Run a worker; yields the lines that it says."""
    said: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as worker:
        assert worker.stdout is not None
        reader = threading.Thread(target=lambda: said.extend(worker.stdout or ()))
        reader.start()
        try:
            yield said
        finally:
            worker.send_signal(signal.SIGTERM)
            reader.join(60)
