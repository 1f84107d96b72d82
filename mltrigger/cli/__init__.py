"""The command line, ``mltrigger``. Without a command it lists the commands."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mltrigger._version import __version__
from mltrigger.aws.admin.commands import add_commands
from mltrigger.cli.case import add_commands as add_case_commands
from mltrigger.cli.completion import add_commands as add_completion_commands
from mltrigger.cli.dashboard import add_commands as add_dashboard_commands
from mltrigger.cli.k8s.commands import add_commands as add_k8s_commands
from mltrigger.cli.keeping import add_commands as add_keeping_commands
from mltrigger.cli.label import add_commands as add_label_commands
from mltrigger.cli.metrics import add_commands as add_metrics_commands
from mltrigger.cli.move import add_commands as add_move_commands
from mltrigger.cli.output import FULL, add_output, show, silence
from mltrigger.cli.parsing import EXIT_STATUS, Parser, address, filled, seconds
from mltrigger.cli.postgres import add_commands as add_postgres_commands
from mltrigger.cli.reading import plain_warnings, read
from mltrigger.cli.reads import asking, attempts, listing
from mltrigger.cli.repairs import letters, pausing
from mltrigger.cli.serve import add_commands as add_serve_commands
from mltrigger.cli.subscribed import add_url, on_bus
from mltrigger.cli.table import add_commands as add_table_commands
from mltrigger.cli.versions import bindings, compare, lanes
from mltrigger.errors import MltriggerError, NotFound, how_to_install
from mltrigger.text import one_line, redacted

if TYPE_CHECKING:
    from mltrigger.bus import EventBus

TUTORIAL_FOLDER = "mltrigger-tutorial"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. Without a command, print the list of commands.

    0: done. 1: refused with a message. 2: wrong usage. 130: interrupted. Some commands have more.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.run is None:
        parser.print_help()
        return 0
    if sys.stdout is None:  # closed by the shell, as in `mltrigger ls >&-`
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the end
    with contextlib.suppress(AttributeError):  # not a file: a test looks at it
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    status = 0
    try:
        status = int(given.run(given))
        sys.stdout.flush()
    except MltriggerError as error:
        print(f"mltrigger: {one_line(redacted(str(error)))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        silence()  # at its end Python would flush into the pipe again
    except OSError as error:
        if error.errno not in FULL:
            raise
        silence()
        print(f"mltrigger: the output cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    return status


def demo(given: argparse.Namespace) -> int:
    """Read scanned pages in a watched folder: two OCR versions and a classifier."""
    missing = _missing("rapidocr", "onnxruntime", "sklearn", "PIL")
    if missing:
        print(
            f"mltrigger: the demo needs {', '.join(missing)}: {how_to_install('demo')}",
            file=sys.stderr,
        )
        return 1
    from mltrigger.demo.story import tell

    return tell(full_trace=given.verbose)


def tutorial(given: argparse.Namespace) -> int:
    """Copy the notebooks here and open JupyterLab on the first one."""
    if _missing("jupyterlab"):
        print(
            f"mltrigger: the tutorial needs JupyterLab: {how_to_install('tutorial')}",
            file=sys.stderr,
        )
        return 1
    folder = copy_notebooks(Path(given.folder))
    first = sorted(folder.glob("*.ipynb"))[0]
    print(f"opening {first.parent.name}/{first.name} in JupyterLab; Ctrl-C ends it")
    options = ["--no-browser"] if given.no_browser else []
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--allow-root")  # a container's user; JupyterLab would end at once
    command = [sys.executable, "-m", "jupyterlab", str(first), *options]
    return subprocess.run(command, check=False).returncode  # noqa: S603 - our own interpreter


def publish(given: argparse.Namespace) -> int:
    """Publish one event and wake subscribers in other processes."""
    with plain_warnings():
        return _published(given)


def _published(given: argparse.Namespace) -> int:
    from mltrigger.urls import connect, existing

    data = read(given.data, given.text)
    attributes = {
        name: getattr(given, name)
        for name in ("type", "subject", "source", "id")
        if getattr(given, name) is not None
    }
    with connect(given.url if given.create else existing(given.url)) as bus:
        if given.create:
            bus.topic(given.topic)
        try:
            receipt = bus.publish(given.topic, data, **attributes)
        except NotFound as error:
            raise NotFound(f"{error.plain}; --create makes it") from error
    subscribers = ", ".join(receipt.subscriptions) or "nobody yet"
    print(
        f"{receipt.event_id} {'was published before' if receipt.duplicate else 'published'} on"
        f" {given.topic!r}, for {subscribers}"
    )
    return 0


def worker(given: argparse.Namespace) -> int:
    """Deliver all models that can be imported until SIGTERM. Return 0 when drained."""
    from mltrigger.worker import Worker, executor_at, stop_on_signals

    stopping = stop_on_signals()  # first, because opening the bus takes time
    from mltrigger.cli.health import Probes, serving
    from mltrigger.delivery.listener import DRAIN_S
    from mltrigger.urls import connect, existing

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    sys.path.insert(0, "")  # find models beside the notebook, as `python -m` does
    executor = executor_at(given.executor) if given.executor else None
    probes = Probes()
    with contextlib.ExitStack() as stack:
        if given.health is not None:
            host, port = given.health
            port = stack.enter_context(serving(host, port, probes))
            _say(f"probes on port {port}: /livez, /readyz")
        bus = connect(existing(given.url))
        send_rest = _observed(bus) if given.otel else None
        for name in given.subscription or ():
            bus.spec(name)  # refuse a wrong name now
        work = Worker(bus, given.subscription or (), _say, stopping, executor)
        probes.follow(work.lifeless, work.unready)
        _say(f"worker on {bus!r}; Ctrl-C or SIGTERM drains")
        work.run(until_idle=given.until_idle)
        _say("draining")
        drain_s = DRAIN_S if given.drain_s is None else given.drain_s
        bus.close(drain_s, polls_s=drain_s)
        if send_rest is not None:
            send_rest()
        _say("done")
    return 0


def _observed(bus: EventBus) -> Callable[[], None]:
    """Send spans and metrics of *bus*. Return how to send the rest at the end."""
    from mltrigger.telemetry.instrumenting import instrument
    from mltrigger.telemetry.sending import start

    send_rest = start()
    instrument(bus)
    return send_rest


def doctor(given: argparse.Namespace) -> int:
    """Print each finding and its advice. Return 1 when something is an error."""
    import pandas as pd

    with on_bus(given) as bus:
        found = bus.doctor(given.subscription)
        balance = bus.audit()
    wrong = [
        ("error", row.subscription, "audit",
         f"{row.missing} missing, {row.double} double: {row.events}", "")
        for row in balance[~balance["balanced"]].itertuples(index=False)
    ]  # fmt: skip
    rows = pd.DataFrame([*found.itertuples(index=False), *wrong], columns=[*found.columns])
    if given.form != "table":
        show(rows, given.form)
    else:
        for severity, about, check, finding, advice in rows.itertuples(index=False):
            print(
                one_line(f"{severity:8}{about}: {check}: {finding}")
                + (f"\n        -> {one_line(advice)}" if advice else "")
            )
    return int("error" in set(rows["severity"]))


def aws(given: argparse.Namespace) -> int:
    """Print a policy document or a CloudFormation template. No call is made."""
    print(given.text(given))
    return 0


def copy_notebooks(folder: Path) -> Path:
    """Copy the notebooks to *folder* and return it. Existing files stay.

    Running a copy changes no installed file.
    """
    checkout = Path(__file__).parents[2] / "notebooks"
    found = (
        checkout if checkout.is_dir() else Path(sys.prefix) / "share" / "mltrigger" / "notebooks"
    )
    notebooks = sorted(found.glob("*.ipynb"))
    if not notebooks:
        raise MltriggerError(
            "the notebooks are not installed; install mltrigger from its wheel or a checkout"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for notebook in notebooks:
            if not (folder / notebook.name).exists():
                shutil.copy(notebook, folder / notebook.name)
    except OSError as error:
        raise MltriggerError(
            f"the notebooks cannot be copied to {str(folder)!r}: {error.strerror}; name another"
            " folder, --folder"
        ) from error
    return folder


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # a reader who has gone must not end the worker
        print(one_line(line), flush=True)


def _missing(*modules: str) -> list[str]:
    from importlib.util import find_spec

    return [module for module in modules if find_spec(module) is None]


def _parser() -> Parser:
    parser = Parser(
        prog="mltrigger",
        description="Event-driven model serving, Jupyter-first.",
        epilog=EXIT_STATUS,
    )
    parser.add_argument("--version", action="version", version=f"mltrigger {__version__}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(metavar="command", title="commands")
    for add in (_add_demo, _add_tutorial, _add_publish, _add_worker, _add_doctor):
        add(commands)
    for room in (listing, attempts, asking, letters, pausing, bindings, lanes, compare):
        room.add_commands(commands)
    add_label_commands(commands)
    add_case_commands(commands)
    add_keeping_commands(commands)
    add_completion_commands(commands, _parser)
    add_table_commands(commands)
    add_move_commands(commands)
    add_serve_commands(commands)
    add_dashboard_commands(commands)
    add_metrics_commands(commands)
    add_k8s_commands(commands)
    add_postgres_commands(commands)
    add_commands(commands, aws)
    return parser


def _add_demo(commands: Any) -> None:
    added = commands.add_parser(
        "demo",
        help="scanned pages through OCR and a classifier, on this machine, in about a minute",
    )
    added.add_argument(
        "--verbose", action="store_true", help="show the trace of every page, not of one"
    )
    added.set_defaults(run=demo)


def _add_tutorial(commands: Any) -> None:
    added = commands.add_parser("tutorial", help="open the tutorial notebooks in JupyterLab")
    added.add_argument(
        "--folder", default=TUTORIAL_FOLDER, help=f"where to copy them (default: {TUTORIAL_FOLDER})"
    )
    added.add_argument("--no-browser", action="store_true", help="start the server only")
    added.set_defaults(run=tutorial)


def _add_publish(commands: Any) -> None:
    added = commands.add_parser("publish", help="publish one event from the shell")
    added.add_argument("topic")
    added.add_argument("data", help="JSON, or - to read it from standard input")
    added.add_argument("--text", action="store_true", help="take the data as text, not as JSON")
    add_url(added)
    added.add_argument("--create", action="store_true", help="make the topic if it does not exist")
    for name, meaning in (
        ("type", "what happened"),
        ("subject", "to what"),
        ("source", "where"),
        ("id", "a repeat changes nothing"),
    ):
        added.add_argument(f"--{name}", help=f"{meaning} (CloudEvents {name})")
    added.set_defaults(run=publish)


def _add_worker(commands: Any) -> None:
    added = commands.add_parser(
        "worker", help="deliver subscriptions whose models can be imported, until Ctrl-C or SIGTERM"
    )
    add_url(added)
    added.add_argument(
        "--subscription",
        action="append",
        metavar="NAME",
        help="take only this one (may be repeated)",
    )
    added.add_argument("--until-idle", action="store_true", help="end when nothing is left to do")
    added.add_argument(
        "--drain-s", type=seconds, help="longest wait for running calls at the end (default: 25)"
    )
    added.add_argument(
        "--otel", action="store_true", help="send spans and metrics by OTLP (variables: OTEL_…)"
    )
    added.add_argument(
        "--health",
        type=address,
        metavar="[HOST:]PORT",
        help="answer /livez and /readyz there; without HOST on this machine only",
    )
    added.add_argument(
        "--executor",
        type=filled,
        metavar="MODULE:NAME",
        help="run the models in this executor, or in the one that this callable makes",
    )
    added.set_defaults(run=worker)


def _add_doctor(commands: Any) -> None:
    added = commands.add_parser("doctor", help="advice with reasons, from measurements")
    add_url(added)
    added.add_argument("--subscription", metavar="NAME", help="only about this one")
    add_output(added)
    added.set_defaults(run=doctor)


if __name__ == "__main__":
    sys.exit(main())
