"""README and the pages of docs/: their blocks run as they are printed, one after the other, each page
in an empty folder with a bus of its own.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import SERVERS
from databases import Postgres
from documentation import PAGES, ROOT, SHELL, blocks, close, named, run
from model_servers import ModelServer, Request

import mltrigger as mt

BLOCKS = [block for page in PAGES for block in blocks(page)]
NOT_RUN = {
    "tests do not install": 2,
    "it installs into the environment of the tests": 1,
    "it serves until it is ended, and tests/api has it": 1,
    "it needs a cluster; tests/cli/test_k8s.py checks the manifests": 1,
    "tests/cli/test_worker_on_clusters.py runs it": 2,
    "tests/api/test_clients.py runs it": 4,
    "the file was moved above": 1,
}
"""Why a block is not run, and how many are not run for that reason."""
NEEDS = {
    "docs/brokers.md": ["redis-server"],
    "docs/bucket.md": ["rapidocr"],
    "docs/examples/invoices.md": ["rapidocr"],
    "docs/mlflow.md": ["mlflow"],
}


def needed(page: Path) -> Any:
    """Return *page* as a parameter, with the programs and libraries that it needs."""
    names = list(NEEDS.get(named(page), ()))
    if any(block.is_run and block.language in SHELL for block in blocks(page)):
        names.append("bash")
    marks = [pytest.mark.needs(*names)] if names else []
    return pytest.param(page, id=named(page), marks=marks)


ELSEWHERE = {"docs/command_line.md": ROOT / "tests" / "cli" / "test_command_line_page.py"}
"""A page whose blocks another test runs, on a bus that it builds for them."""
RUN = [
    page
    for page in PAGES
    if any(block.is_run for block in blocks(page))
    and not (named(page) in ELSEWHERE and ELSEWHERE[named(page)].exists())
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in an environment that names no bus."""
    for name in ("MLTRIGGER_URL", "MLTRIGGER_LOG", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "registry").as_uri())
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def addresses(request: pytest.FixtureRequest, page: Path) -> Iterator[dict[str, str]]:
    """The real services behind the addresses of *page*."""
    services: dict[str, Callable[[Any], Iterator[dict[str, str]]]] = {
        "docs/postgresql.md": _databases,
        "docs/brokers.md": _redis,
        "docs/examples/budget.md": _llm,
    }
    yield from services.get(named(page), _nothing)(request)


def _nothing(_: Any) -> Iterator[dict[str, str]]:
    yield {}


def _databases(request: Any) -> Iterator[dict[str, str]]:
    """Two databases, and the programs of PostgreSQL on the path."""
    server: Postgres = request.getfixturevalue("postgres")
    patch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    patch.setenv("PATH", str(server.bin), prepend=os.pathsep)
    made = [f"page_{uuid.uuid4().hex}" for _ in range(2)]
    with server.session() as session:
        for name in made:
            session.execute(f"CREATE DATABASE {name}")
    yield {
        "postgresql://team@db/ml": server.dsn(made[0]),
        "postgresql://owner@db/ml": server.dsn(made[0]),
        "postgresql://team@other/ml": server.dsn(made[1]),
    }
    with server.session() as session:
        for name in made:
            session.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _redis(_: Any) -> Iterator[dict[str, str]]:
    server = SERVERS["redis"]()
    yield {"redis://broker:6379": f"redis://127.0.0.1:{server.port}"}
    server.stop()


def _llm(_: Any) -> Iterator[dict[str, str]]:
    """A server of OpenAI's protocol that answers with the first words of each text."""

    def answer(request: Request) -> Any:
        asked = request.json()
        text = asked["messages"][-1]["content"].partition(": ")[2]
        assert asked["max_tokens"] == 60
        message = {"role": "assistant", "content": text.split()[-1]}
        usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return {"id": "1", "model": "qwen3", "choices": [choice], "usage": usage}

    with ModelServer(answer) as server:
        yield {"http://127.0.0.1:8000": server.url}


# -- the truth of a page, beyond that it runs ------------------------------------------------------


def _readme(names: dict[str, Any]) -> None:
    assert names["run"].results()["score"].tolist() == [1, -1]


def _looking(names: dict[str, Any]) -> None:
    assert names["count"].topic == "documents"
    assert names["sentiment"].plot_latency().get_xlabel()


def _quickstart(names: dict[str, Any]) -> None:
    assert names["length"].results()["output"].tolist()[-1] == len("misspelt")
    assert names["length"].dead_letters().empty


def _bucket(names: dict[str, Any]) -> None:
    assert names["length"].results()["output"].tolist() == [len("Dear reader")]


def _brokers(names: dict[str, Any]) -> None:
    assert names["risk"].results()["risk"].tolist() == [0.25]
    [[_, [(_, fields)]]] = names["application"].xread({"risks": 0})
    assert json.loads(fields[b"data"])["risk"] == 0.25


def _mlflow(names: dict[str, Any]) -> None:
    assert names["churn"].results()[["churns", "version"]].values.tolist() == [[1, "1.0.0"]]


def _corrections(names: dict[str, Any]) -> None:
    with sqlite3.connect("books.db") as books:
        totals = dict(books.execute("SELECT subject, total FROM bill"))
    assert totals == {f"sale-{n}": pytest.approx(120 * n) for n in range(4)}


def _failures(names: dict[str, Any]) -> None:
    assert sorted(names["sentiment"].results()["score"]) == [1, 1]


def _postgresql(names: dict[str, Any]) -> None:
    assert names["bus"].audit()["balanced"].all()
    assert mt.subscription("count").results()["output"].tolist() == [2]


def _processes(names: dict[str, Any]) -> None:
    assert mt.subscription("count").accuracy()["right"].tolist() == [1]


def _invoices(names: dict[str, Any]) -> None:
    with sqlite3.connect("invoices.db") as books:
        found = [total for (total,) in books.execute("SELECT total FROM invoice")]
    assert len(found) == len(names["totals"].results().query("outcome == 'succeeded'"))
    assert len(found) >= 2
    assert len(found) + len(names["totals"].dead_letters()) == 6


def _tickets(names: dict[str, Any]) -> None:
    answers = names["tickets"].results()["output"].tolist()
    assert answers == ["delivery", "billing", "support", "delivery"]


def _fraud(names: dict[str, Any]) -> None:
    accuracy = names["fraud"].accuracy(by="version").set_index("version")
    assert accuracy["right"].to_dict() == {"1.0.0": 2}


def _budget(names: dict[str, Any]) -> None:
    mt.wait(progress=False)
    assert sorted(names["summary"].results()["text"]) == ["great.", "late."]
    assert names["purse"].results()["output"].max() == 20
    names["BUDGET"] = 10
    names["summary"].fire([{"text": "One more."}], progress=False)
    mt.wait(progress=False)
    assert names["summary"].state == "paused"


TRUE_OF = {
    "README.md": _readme,
    "docs/index.md": _readme,
    "docs/quickstart.md": _quickstart,
    "docs/looking.md": _looking,
    "docs/bucket.md": _bucket,
    "docs/brokers.md": _brokers,
    "docs/mlflow.md": _mlflow,
    "docs/corrections.md": _corrections,
    "docs/failures.md": _failures,
    "docs/postgresql.md": _postgresql,
    "docs/processes.md": _processes,
    "docs/examples/invoices.md": _invoices,
    "docs/examples/tickets.md": _tickets,
    "docs/examples/fraud.md": _fraud,
    "docs/examples/budget.md": _budget,
}


@pytest.mark.parametrize("page", [needed(page) for page in RUN])
def test_the_blocks_of_a_page_run_as_printed_one_after_the_other(
    page: Path, folder: Path, addresses: dict[str, str]
) -> None:
    names: dict[str, Any] = {}
    try:
        names = run(page, addresses)
        TRUE_OF.get(named(page), lambda _: None)(names)
    finally:
        close(names)


def test_a_block_that_is_not_run_says_why() -> None:
    said: dict[str, int] = {}
    for block in BLOCKS:
        if block.mark == "not run":
            said[block.said] = said.get(block.said, 0) + 1

    assert said == NOT_RUN


PROGRAMS = re.compile(
    r"(?m)^(\$ )?(mltrigger|pip|make|python|pytest|kubectl|curl|export|import|from) "
)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_block_of_python_or_shell_says_so(page: Path) -> None:
    """Else it would be run by nobody."""
    plain = [block for block in blocks(page) if block.language in ("", "text", "console")]

    assert [block.name for block in plain if PROGRAMS.search(block.code)] == []


# -- links -----------------------------------------------------------------------------------------

LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s#]*)(?:#([^)\s]+))?\)")
OWN = [*PAGES, *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"))]


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of *page*, as GitHub and the site make them."""
    found = re.findall(r"(?m)^#+ (.+)$", page.read_text("utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", OWN, ids=named)
def test_a_link_to_the_repository_leads_to_a_file_and_to_a_heading(page: Path) -> None:
    broken = []
    for target, anchor in LINK.findall(re.sub(r"(?ms)^```.*?^```$", "", page.read_text("utf-8"))):
        file = page.parent / target if target else page
        if not file.exists():
            broken.append(target)
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            broken.append(f"{target}#{anchor}")

    assert broken == []


def test_the_readme_shows_the_cockpit_in_light_and_dark() -> None:
    text = re.sub(r"(?s)<!--.*?-->", "", (ROOT / "README.md").read_text("utf-8"))
    pictures = re.findall(r'(?:src|srcset)="([^"]+)"', text)

    assert [re.findall("light|dark", picture) for picture in pictures] == [["dark"], ["light"]]
    assert [picture for picture in pictures if not (ROOT / picture).exists()] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 120


def test_the_figures_of_the_page_are_those_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    import figures

    page, results = figures.PAGE.read_text("utf-8"), figures.RESULTS.read_text("utf-8")

    assert figures.renewed(page, results) == page, "call python docs/_ext/figures.py"
    assert all(table in page for table in figures.tables(results).values())


def test_a_page_is_in_the_contents_of_the_site() -> None:
    listed = set()
    for page in PAGES:
        for block in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            listed |= set(block.split())
    pages = {named(page).removeprefix("docs/").removesuffix(".md") for page in PAGES}

    assert pages - listed == {"README", "index"}


def test_the_page_of_tutorials_names_every_notebook() -> None:
    text = (ROOT / "docs" / "tutorials.md").read_text("utf-8")
    notebooks = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))

    assert re.findall(r"notebooks/(\w+\.ipynb)\)", text) == notebooks
