"""Clients of the API: generated ones compile and run, and those of the page of clients run."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mltrigger as mt

HERE = Path(__file__).parent / "clients"
PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()
INPUT = {
    "type": "object",
    "properties": {"page": {"type": "integer", "minimum": 1}},
    "required": ["page"],
}
OUTPUT = {"type": "array", "items": {"type": "string"}}


@pytest.fixture
def typed(file: Path, tmp_path: Path) -> Iterator[mt.Server]:
    with sqlite3.connect(tmp_path / "app.db") as app:
        app.execute("CREATE TABLE shelf (id INTEGER PRIMARY KEY, page INTEGER)")
    with mt.connect(f"sqlite:///{file}") as bus:
        model = mt.model("pages", version="1.0.0", input_schema=INPUT, output_schema=OUTPUT)
        pages = model(lambda book: ["a"] * book["page"])
        bus.subscribe("books", pages, name="reader")
        bus.subscribe(f"table+sqlite:///{tmp_path}/app.db#shelf", pages, name="shelf")
        with mt.serve(bus) as server:
            yield server


def run(*command: str, cwd: Path, timeout_s: float = 240) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout


def described(server: mt.Server, bus_file: Path, folder: Path) -> Path:
    """Write the document as ``mltrigger api openapi`` prints it."""
    file = folder / "openapi.json"
    command = [sys.executable, "-m", "mltrigger", "api", "openapi", "--server", server.url]
    file.write_text(run(*command, "--url", f"sqlite:///{bus_file}", cwd=folder))
    return file


@pytest.mark.needs("node", "npm")
def test_typescript_client_is_generated_compiled_and_run(
    typed: mt.Server, file: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(HERE / "typescript", tmp_path / "typescript"))
    described(typed, file, folder)
    run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder)
    run("npm", "run", "generate", cwd=folder)
    run("npm", "run", "build", cwd=folder)

    program = subprocess.Popen(
        ["node", "built/check.js", typed.url, typed.token],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "open\n"
    with sqlite3.connect(tmp_path / "app.db") as app:
        app.execute("INSERT INTO shelf (page) VALUES (4)")
    said = json.loads(program.communicate(timeout=60)[0])

    assert said == {
        "pages": ["a", "a", "a"],
        "refused": "invalid_input",
        "outcomes": [["a", "a"]],
        "streamed": '["a", "a", "a", "a"]',
    }


PYTHON = """
import sys
from mltrigger_client import AuthenticatedClient
from mltrigger_client.api.events import publish
from mltrigger_client.api.models import invoke_pages_v1x0x0
from mltrigger_client.models import PagesV1x0x0Input as Input

url, token = sys.argv[1:]
client = AuthenticatedClient(base_url=url, token=token)
with client:
    receipt = publish.sync("books", client=client, body={"page": 2}, idempotency_key="py-1")
    answer = invoke_pages_v1x0x0.sync(client=client, body=Input(page=3))
    refused = invoke_pages_v1x0x0.sync_detailed(client=client, body=Input(page=0))
print(receipt.id, answer.output, refused.status_code.value)
"""


def test_python_client_is_generated_and_run(typed: mt.Server, file: Path, tmp_path: Path) -> None:
    document = described(typed, file, tmp_path)
    run(
        sys.executable, "-m", "openapi_python_client", "generate", "--path", str(document),
        "--meta", "none", "--output-path", "mltrigger_client", cwd=tmp_path,
    )  # fmt: skip
    said = run(sys.executable, "-c", PYTHON, typed.url, typed.token, cwd=tmp_path)

    assert said.split("\n")[0] == "py-1 ['a', 'a', 'a'] 422"


def block(language: str) -> str:
    """Return the only block of *language* on the page of clients."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    code: str = found
    return code


@pytest.mark.parametrize(
    ("language", "name", "command"),
    [
        pytest.param(
            "java", "Client.java", ["java", "Client.java"], marks=pytest.mark.needs("java")
        ),
        pytest.param("go", "client.go", ["go", "run", "client.go"], marks=pytest.mark.needs("go")),
        pytest.param("r", "client.R", ["Rscript", "client.R"], marks=pytest.mark.needs("Rscript")),
        pytest.param(
            "bash", "client.sh", ["bash", "client.sh"], marks=pytest.mark.needs("bash", "curl")
        ),
        pytest.param("python", "client.py", [sys.executable, "client.py"]),
        pytest.param(
            "javascript", "client.mjs", ["node", "client.mjs"], marks=pytest.mark.needs("node")
        ),
    ],
)
def test_client_of_the_page_publishes_and_calls(
    language: str,
    name: str,
    command: list[str],
    typed: mt.Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = block(language)
    assert len([line for line in code.splitlines() if line.strip()]) <= 16
    (tmp_path / name).write_text(code)
    monkeypatch.setenv("MLTRIGGER_API", typed.url)
    monkeypatch.setenv("MLTRIGGER_TOKEN", typed.token)
    monkeypatch.setenv("GOCACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GOFLAGS", "-mod=mod")
    assert os.environ["MLTRIGGER_API"] == typed.url

    said = run(*command, cwd=tmp_path)

    assert '"topic":"books"' in said.replace(" ", "")
    assert '"output":["a","a"]' in said.replace(" ", "")
