"""Every public name shows an example, and each example runs."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import public_api
import pytest

import mltrigger as mt
from mltrigger.notebook import examples

PROTOCOLS = ("mltrigger.schemes.Endpoint.", "mltrigger.schemes.Scheme.")
"""The example of a protocol is one of all its methods."""
MODULES = {name: importlib.import_module(name) for name in public_api.MODULES}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL


def public() -> Iterator[tuple[str, Any]]:
    """Yield each public function, class and method, under its path."""
    for line in public_api.lines():
        path = line.partition("(")[0]
        module = max((name for name in MODULES if path.startswith(f"{name}.")), key=len)
        value: Any = MODULES[module]
        for name in path.removeprefix(f"{module}.").split("."):
            value = getattr(value, name)
        if not path.startswith(PROTOCOLS) and (inspect.isroutine(value) or inspect.isclass(value)):
            yield path, value


PUBLIC = dict(public())


@pytest.mark.parametrize("path", PUBLIC)
def test_every_public_name_shows_an_example(path: str) -> None:
    doc = inspect.getdoc(PUBLIC[path]) or ""

    assert f"\n{examples.HEAD}" in doc
    assert re.search(r">>> |^::$", doc.partition(examples.HEAD)[2], re.MULTILINE)


def test_every_example_is_about_a_public_name() -> None:
    assert [n for n in examples.written() if f"mltrigger.{n}" not in PUBLIC] == []


def ocr(page: dict[str, int]) -> dict[str, str]:
    if page["n"] == 3:
        raise ValueError("no text on this page")
    return {"text": f"page {page['n']}"}


def ocr_next(page: dict[str, int]) -> dict[str, str]:
    return {"text": ocr(page)["text"].capitalize()}


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The names that examples find: a bus with a subscription, and two versions of its model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLTRIGGER_URL", "memory://")
    bus = mt.use("memory://")
    read_page = mt.model(ocr, name="ocr", version="1.0.0")
    read_faster = mt.model(ocr_next, name="ocr", version="1.1.0")
    sub = bus.subscribe("documents", read_page, max_attempts=1)
    bus.register(read_faster)
    pages = [mt.Event({"n": n}, subject=f"page-{n}.png") for n in range(6)]
    run = bus.fire("documents", pages, progress=False)
    schemes = importlib.import_module("mltrigger.schemes")
    yield {
        **{name: getattr(schemes, name) for name in schemes.__all__},
        "mt": mt,
        "bus": bus,
        "sub": sub,
        "event": run.receipts[0],
        "read_page": read_page,
        "read_faster": read_faster,
    }
    bus.close()
    mt.close()


def distinct() -> dict[str, Any]:
    """Return the public names, each documentation once."""
    return {inspect.getdoc(value) or path: path for path, value in reversed(PUBLIC.items())}


@pytest.mark.needs("matplotlib", "openpyxl", "uvicorn", "pyarrow")
@pytest.mark.parametrize("path", sorted(distinct().values()))
def test_the_example_runs(path: str, prepared: dict[str, Any]) -> None:
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    doc = inspect.getdoc(PUBLIC[path]) or ""
    test = doctest.DocTestParser().get_doctest(doc, prepared, path, None, 0)
    said: list[str] = []

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.append)

    pyplot.close("all")
    assert not said, "".join(said)
