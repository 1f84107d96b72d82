"""AWS on this machine, as it is shipped to users: started in one line, gone with whoever started
it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import boto3
import pytest
from model_servers import unused_port
from shared import wait_until

import mltrigger as mt
from mltrigger.aws.clients import Clients

ROOT = Path(__file__).parents[2]


def answers(url: str) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def test_a_bus_runs_on_it_without_an_account() -> None:
    with mt.testing.aws_emulator() as emulator:
        aws = {"endpoint_url": emulator.url, "session": emulator.session(), "log": "memory://"}
        with mt.connect(f"aws://{emulator.region}/acme", **aws) as bus:
            bus.subscribe("words", mt.model(len, name="length", version="1.0.0"))

            run = bus.fire("words", ["hello"], progress=False)

            assert list(run.results()["output"]) == [5]
        assert emulator.url.startswith("http://127.0.0.1:")  # nobody else on the network reaches it
        assert repr(emulator) == "AwsEmulator('eu-west-1', running)"
    assert repr(emulator) == "AwsEmulator('eu-west-1', closed)"
    assert not answers(emulator.url)
    emulator.close()


def test_it_is_reached_without_the_proxy_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with unused_port() as port, monkeypatch.context() as patched:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            patched.setenv(name, f"http://127.0.0.1:{port}")
            patched.setenv(name.upper(), f"http://127.0.0.1:{port}")
        patched.delenv("no_proxy", raising=False)
        patched.delenv("NO_PROXY", raising=False)
        with mt.testing.aws_emulator() as emulator:
            aws = {"endpoint_url": emulator.url, "session": emulator.session(), "log": "memory://"}
            with mt.connect(f"aws://{emulator.region}/acme", **aws) as bus:
                bus.subscribe("words", mt.model(len, name="length", version="1.0.0"))
                assert list(bus.fire("words", ["hello"], progress=False).results()["output"]) == [5]
            # as a user makes one
            ours = emulator.session().client("sts", endpoint_url=emulator.url)
            assert ours.get_caller_identity()["Account"]
            # boto3 reads it; the session is the user's own
            patched.setenv("AWS_ENDPOINT_URL", emulator.url)
            plain = boto3.Session("testing", "testing", region_name=emulator.region)
            assert Clients(plain, emulator.region).account


def test_it_ends_with_a_process_that_is_killed() -> None:
    program = (
        "import os, signal, mltrigger as mt; print(mt.testing.aws_emulator().url, flush=True);"
        " os.kill(os.getpid(), signal.SIGKILL)"
    )
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": paths},
    )

    assert done.returncode < 0
    url = done.stdout.strip()
    wait_until(lambda: not answers(url))


def test_without_moto_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "moto.py").write_text("raise ModuleNotFoundError(\"No module named 'moto'\")")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    with pytest.raises(
        mt.MltriggerError, match=r"No module named 'moto'.*pip install -e '.\[test\]'"
    ):
        mt.testing.aws_emulator()
