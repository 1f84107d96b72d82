"""The command line: ``mltrigger demo | tutorial | publish``."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mltrigger import codec
from mltrigger._version import __version__
from mltrigger.errors import InvalidEvent, MltriggerError

TUTORIAL_FOLDER = "mltrigger-tutorial"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status: 0 done, 1 refused with a message, 2 wrong usage."""
    given = _parser().parse_args(arguments)
    try:
        return int(given.run(given))
    except MltriggerError as error:
        print(f"mltrigger: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def demo(given: argparse.Namespace) -> int:
    """Put scanned pages into a watched folder and read them with two OCR versions and a classifier."""
    missing = _missing("rapidocr", "onnxruntime", "sklearn", "PIL")
    if missing:
        print(f"mltrigger: the demo needs {', '.join(missing)}: pip install 'mltrigger[demo]'", file=sys.stderr)
        return 1
    from mltrigger.demo.story import tell

    return tell(full_trace=given.verbose)


def tutorial(given: argparse.Namespace) -> int:
    """Copy the notebooks here and open JupyterLab on the first one."""
    if _missing("jupyterlab"):
        print("mltrigger: the tutorial needs JupyterLab: pip install 'mltrigger[tutorial]'", file=sys.stderr)
        return 1
    folder = copy_notebooks(Path(given.folder))
    first = sorted(folder.glob("*.ipynb"))[0]
    print(f"opening {first.parent.name}/{first.name} in JupyterLab; Ctrl-C ends it")
    command = [sys.executable, "-m", "jupyterlab", str(first), *(["--no-browser"] if given.no_browser else [])]
    return subprocess.run(command, check=False).returncode  # noqa: S603 - our own interpreter


def publish(given: argparse.Namespace) -> int:
    """Publish one event; subscribers in other processes are woken."""
    from mltrigger.urls import connect

    text = sys.stdin.read() if given.data == "-" else given.data
    data = text if given.text else _json(text)
    attributes = {name: getattr(given, name) for name in ("type", "subject", "source", "id") if getattr(given, name) is not None}
    with connect(given.url) as bus:
        if given.create:
            bus.topic(given.topic)
        receipt = bus.publish(given.topic, data, **attributes)
    subscribers = ", ".join(receipt.subscriptions) or "nobody yet"
    print(f"{receipt.event_id} {'was published before' if receipt.duplicate else 'published'} on {given.topic!r}, for {subscribers}")
    return 0


def copy_notebooks(folder: Path) -> Path:
    """Copy the notebooks to *folder*, so that running them changes no installed file; what is there already stays. Return it."""
    checkout = Path(__file__).parent.parent / "notebooks"
    found = checkout if checkout.is_dir() else Path(sys.prefix) / "share" / "mltrigger" / "notebooks"
    notebooks = sorted(found.glob("*.ipynb"))
    if not notebooks:
        raise MltriggerError("the notebooks are not installed; install mltrigger from its wheel or a checkout")
    folder.mkdir(parents=True, exist_ok=True)
    for notebook in notebooks:
        if not (folder / notebook.name).exists():
            shutil.copy(notebook, folder / notebook.name)
    return folder


def _json(text: str) -> object:
    try:
        return codec.loads(text)
    except InvalidEvent as error:
        shown = json.dumps(text[:40])
        raise InvalidEvent(f"{error}; quote it as JSON ({shown}), or say --text", error.reason) from error


def _missing(*modules: str) -> list[str]:
    from importlib.util import find_spec

    return [module for module in modules if find_spec(module) is None]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mltrigger", description="Event-driven model serving, Jupyter-first.")
    parser.add_argument("--version", action="version", version=f"mltrigger {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")

    story = commands.add_parser("demo", help="scanned pages through OCR and a classifier, on this machine, in about a minute")
    story.add_argument("--verbose", action="store_true", help="show the trace of every page, not of one")
    story.set_defaults(run=demo)

    lab = commands.add_parser("tutorial", help="open the tutorial notebooks in JupyterLab")
    lab.add_argument("--folder", default=TUTORIAL_FOLDER, help=f"where to copy them (default: {TUTORIAL_FOLDER})")
    lab.add_argument("--no-browser", action="store_true", help="start the server only")
    lab.set_defaults(run=tutorial)

    one = commands.add_parser("publish", help="publish one event from the shell")
    one.add_argument("topic")
    one.add_argument("data", help="JSON, or - to read it from standard input")
    one.add_argument("--text", action="store_true", help="take the data as text, not as JSON")
    one.add_argument("--url", help="the bus (default: $MLTRIGGER_URL, else sqlite:///mltrigger.db)")
    one.add_argument("--create", action="store_true", help="make the topic if it does not exist")
    for name, meaning in (("type", "what happened"), ("subject", "to what"), ("source", "where"), ("id", "a repeat changes nothing")):
        one.add_argument(f"--{name}", help=f"{meaning} (CloudEvents {name})")
    one.set_defaults(run=publish)
    return parser


if __name__ == "__main__":
    sys.exit(main())
