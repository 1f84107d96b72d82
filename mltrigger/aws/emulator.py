"""AWS on this machine, to try a bus without an account: moto's server in its own process.

It listens on loopback only.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import weakref
from typing import Any

from mltrigger.aws.clients import emulator_session
from mltrigger.errors import MltriggerError, how_to_install

REGION = "eu-west-1"
_STOP_S = 5.0
_PROGRAM = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)  # or it writes a line for each request
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()  # until the process that started this one closes the pipe, or is gone
"""


class AwsEmulator:
    """A running emulator, empty at its start: SNS, SQS, S3 and STS by moto.

    It ends with :meth:`close`, with its ``with`` block, or with this process. Nothing is kept. moto
    is at https://docs.getmoto.org.

    Attributes
    ----------
    url : str
        Its address, on 127.0.0.1: for ``endpoint_url=`` of :func:`mltrigger.connect` and of boto3's
        clients.
    region : str
        ``eu-west-1``. The emulator takes any.

    Raises
    ------
    MltriggerError
        It does not start, for example because moto is not installed.
    """

    def __init__(self) -> None:
        self.region = REGION
        with tempfile.TemporaryFile() as said:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
                [sys.executable, "-c", _PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                start_new_session=True,  # an interrupt of the kernel is not for it
            )
            self._finish = weakref.finalize(self, _end, self._process)
            port = _first_line(self._process)
            if not port:
                self.close()
                said.seek(0)
                last = said.read().decode(errors="replace").strip().rpartition("\n")[2]
                raise MltriggerError(
                    f"the emulator of AWS did not start ({last}); it is moto's server:"
                    f" {how_to_install('test')}"
                )
        self.url = f"http://127.0.0.1:{port}"

    def session(self) -> Any:
        """Return a boto3 session with credentials that only the emulator takes."""
        return emulator_session(self.region)

    def close(self) -> None:
        """Stop it and forget everything. Idempotent."""
        self._finish()

    def __enter__(self) -> AwsEmulator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"AwsEmulator({self.region!r},"
            f" {'running' if self._process.poll() is None else 'closed'})"
        )


def _first_line(process: subprocess.Popen[bytes]) -> str:
    return process.stdout.readline().decode().strip() if process.stdout else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
