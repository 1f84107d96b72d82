"""The project around the package: what it declares, promises and shows fits together."""

from __future__ import annotations

import ast
import configparser
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TARGETS = [
    "help",
    "demo",
    "installed",
    "compiled",
    "test",
    "test-all",
    "test-latest",
    "test-later",
    "test-pythons",
    "test-slow",
    "lock",
    "lint",
    "docs",
    "docs-links",
    "bench",
    "storm",
    "storm-guilt",
]

SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())


def requirements(section: str, option: str) -> list[Requirement]:
    lines = SETUP.get(section, option).splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


def environment() -> dict[str, SpecifierSet]:
    """Return name -> versions of everything that conda, and pip inside of it, would install."""
    lines: list[str] = []
    for entry in ENVIRONMENT["dependencies"]:
        lines += entry["pip"] if isinstance(entry, dict) else [entry]
    found = [Requirement(line) for line in lines if not line.startswith("-")]
    return {canonicalize_name(r.name): r.specifier for r in found}


# -- what it needs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("requirement", requirements("options", "install_requires"), ids=str)
def test_conda_installs_what_pip_does(requirement: Requirement) -> None:
    assert environment().get(canonicalize_name(requirement.name)) == requirement.specifier


@pytest.mark.parametrize(
    "name", [n for n in ENVIRONMENT["dependencies"] if isinstance(n, str) and n != "pip"]
)
def test_what_conda_installs_is_declared_with_the_same_versions(name: str) -> None:
    listed = Requirement(name)
    declared = {
        canonicalize_name(r.name): r.specifier for r in requirements("options", "install_requires")
    }
    for extra in SETUP.options("options.extras_require"):
        text = SETUP.get("options.extras_require", extra)
        declared |= {
            canonicalize_name(r.name): r.specifier
            for line in text.splitlines()
            if line.strip()
            for r in [Requirement(line)]
        }
    declared["python"] = SpecifierSet(SETUP.get("options", "python_requires"))

    assert declared[canonicalize_name(listed.name)] == listed.specifier


def test_every_requirement_has_a_lower_bound_and_no_upper_one() -> None:
    for requirement in requirements("options", "install_requires"):
        assert {s.operator for s in requirement.specifier} == {">="}, str(requirement)


def requirements_of_extra(name: str) -> Iterator[Requirement]:
    for line in SETUP.get("options.extras_require", name, raw=True).splitlines():
        if line.strip() and not line.startswith(("#", "%")):
            yield Requirement(line)


def locked() -> dict[str, list[SpecifierSet]]:
    """Return name -> versions of what `make lock` chose; several when they differ by Python or
    platform.
    """
    found: dict[str, list[SpecifierSet]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line)
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement.specifier)
    return found


EXTRAS = SETUP.options("options.extras_require")


@pytest.mark.parametrize(
    "requirement",
    [
        *requirements("options", "install_requires"),
        *(r for extra in EXTRAS for r in requirements_of_extra(extra)),
    ],
    ids=str,
)
def test_the_lock_names_a_version_of_everything_that_is_installed(requirement: Requirement) -> None:
    chosen = locked().get(canonicalize_name(requirement.name), [])

    assert chosen and {s.operator for specifiers in chosen for s in specifiers} == {"=="}
    assert all(
        requirement.specifier.contains(s.version) for specifiers in chosen for s in specifiers
    )


def test_everything_that_make_installs_is_held_at_the_versions_of_the_lock() -> None:
    makefile = (ROOT / "Makefile").read_text()

    assert "LOCK   := constraints.txt" in makefile and "-c $(LOCK)" in makefile
    installs = [
        line for line in makefile.splitlines() if "pip install" in line and "uv" not in line
    ]
    assert [line for line in installs if not line.startswith("PIP ")] == []


def test_python_is_the_same_everywhere() -> None:
    wanted = SETUP.get("options", "python_requires")
    oldest = wanted.removeprefix(">=")
    classifiers = re.findall(r"Python :: (3\.\d+)", SETUP.get("metadata", "classifiers"))

    assert environment()["python"] == SpecifierSet(wanted)
    assert classifiers[0] == oldest == SETUP.get("mypy", "python_version")
    assert f'target-version = "py{oldest.replace(".", "")}"' in (ROOT / "ruff.toml").read_text()
    assert f"sys.version_info < ({oldest.replace('.', ', ')})" in (ROOT / "Makefile").read_text()


def test_what_the_package_imports_is_declared() -> None:
    """A library that is only used on request comes with an extra."""
    spelled = {
        "PIL": "pillow",
        "nats": "nats-py",
        "opentelemetry": "opentelemetry-api",
        "sklearn": "scikit-learn",
        "yaml": "pyyaml",
        "mlflow": "mlflow-skinny",
    }
    extras = [
        r
        for name in (
            *("brokers", "compare", "completion", "cron", "demo", "mlflow", "onnx"),
            *("otel", "plot", "postgres", "schema", "serve", "tutorial"),
        )
        for r in requirements_of_extra(name)
    ]
    declared = {
        canonicalize_name(r.name) for r in [*requirements("options", "install_requires"), *extras]
    }
    # Come with others: numpy with pandas, joblib with scikit-learn, traitlets and IPython with
    # ipywidgets, botocore with boto3, pydantic-core with pydantic, anyio with starlette, the clients
    # of brokers with the extras of faststream. Pandas keeps texts in pyarrow where that is installed.
    declared |= {"numpy", "joblib", "traitlets", "ipython", "botocore", "pydantic-core", "anyio"}
    declared |= {"aio-pika", "aiokafka", "nats-py", "redis", "zmqtt", "pyarrow"}
    declared |= {"pytest"}  # only pytest loads its plugin
    found = {canonicalize_name(spelled.get(name, name)) for name in foreign_imports()}

    assert found <= declared


def foreign_imports() -> set[str]:
    import sys

    names = set()
    for path in (ROOT / "mltrigger").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module)
    return {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"mltrigger"}


# -- what a developer calls ------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_the_makefile_has_the_target(target: str) -> None:
    text = (ROOT / "Makefile").read_text()

    assert re.search(rf"^{target}:", text, re.MULTILINE)
    assert target in re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split()  # type: ignore[index]


@pytest.mark.needs("make")
def test_make_alone_lists_the_targets_with_what_they_do() -> None:
    done = subprocess.run(
        ["make"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MAKEFLAGS": ""},
    )
    listed = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())

    assert set(TARGETS) <= set(listed)
    assert all(len(says) > 5 for says in listed.values())


def test_continuous_integration_installs_first_calls_lint_and_waits_for_it_and_then_tests() -> None:
    script = ROOT / ".ci" / "run"
    called = re.findall(r"^(?:make|wait) .+$", script.read_text(), re.MULTILINE)

    assert called == [
        "make installed",
        "make lint &",
        "make compiled",
        'wait "$linting"',
        "make test-all",
    ]
    assert "set -e" in script.read_text()  # so a failed lint ends it
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!")


def test_the_guide_for_contributors_names_the_packages_that_make_installs() -> None:
    packages = re.search(r"^DEBIAN := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    line = re.search(
        r"^apt-get install --no-install-recommends (.+)$",
        (ROOT / "CONTRIBUTING.md").read_text(),
        re.MULTILINE,
    )

    assert packages and line and packages[1] == line[1]


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE"])
def test_the_file_is_there_and_says_something(name: str) -> None:
    assert len((ROOT / name).read_text()) > 200


def test_the_first_screen_of_the_readme_states_the_promise() -> None:
    """In the words of the design: at least once, in no order; exactly one recorded outcome for each
    (subscription, event).
    """
    first_screen = " ".join(
        "".join((ROOT / "README.md").read_text().splitlines(keepends=True)[:40]).split()
    ).lower()

    assert "at least once, in no order; exactly one recorded outcome for each" in first_screen


@pytest.mark.parametrize(
    "name", [".venv/", "__pycache__/", "mltrigger.db*", ".ipynb_checkpoints/", "*.egg-info/"]
)
def test_what_a_run_leaves_behind_is_not_kept(name: str) -> None:
    assert name in (ROOT / ".gitignore").read_text().splitlines()


def test_package_data_exists() -> None:
    patterns = SETUP.get("options.package_data", "mltrigger").split(",")

    assert [p.strip() for p in patterns if not list((ROOT / "mltrigger").glob(p.strip()))] == []


def test_the_console_script_leads_somewhere() -> None:
    module, _, name = (
        SETUP.get("options.entry_points", "console_scripts")
        .partition("=")[2]
        .strip()
        .partition(":")
    )
    path = ROOT / module.replace(".", "/")
    tree = ast.parse(
        (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
    )

    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


# -- notebooks -------------------------------------------------------------------------------------


def cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def shown(path: Path) -> str:
    """Return the saved outputs of a notebook as text; pictures are left out, their base64 says
    nothing.
    """

    def texts(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield (
                "".join(map(str, value))
                if all(isinstance(v, str) for v in value)
                else "\n".join(t for v in value for t in texts(v))
            )
        elif isinstance(value, dict):
            for key, inner in value.items():
                if not key.startswith("image/") or key == "image/svg+xml":
                    yield from texts(inner)

    return "\n".join(text for cell in cells(path) for text in texts(cell["outputs"]))


def tags(cell: dict[str, Any]) -> set[str]:
    return set(cell["metadata"].get("tags", []))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_every_cell_was_run_in_order(self, path: Path) -> None:
        counts = [
            cell["execution_count"] for cell in cells(path) if "".join(cell["source"]).strip()
        ]

        assert counts == list(range(1, len(counts) + 1))

    def test_its_outputs_are_saved(self, path: Path) -> None:
        assert any(cell["outputs"] for cell in cells(path))

    def test_no_output_shows_an_absolute_path(self, path: Path) -> None:
        found = re.findall(
            r"(?<![\w:/.<])/(?:home|root|tmp|work|Users|usr|var|opt|mnt|private)/[\w./-]*|\b[A-Z]:\\\\?Users\\\\?\w+",
            shown(path),
        )

        assert found == []

    def test_no_output_shows_a_memory_address(self, path: Path) -> None:
        assert re.findall(r"\b0x[0-9a-f]{6,}\b", shown(path)) == []

    def test_no_output_shows_a_secret(self, path: Path) -> None:
        patterns = r"token=\w+|AKIA[0-9A-Z]{16}|aws_secret\w*|X-Amz-Signature|(?i:bearer) [\w.-]{8,}|://[^/\s:@]+:[^/\s:@]+@|hf_[A-Za-z]{20,}"

        assert re.findall(patterns, shown(path)) == []

    def test_no_error_is_saved_unless_it_is_tagged(self, path: Path) -> None:
        expected = {"raises-exception", "nbval-raises-exception"}
        failed = [
            cell["execution_count"]
            for cell in cells(path)
            if not tags(cell) & expected
            for o in cell["outputs"]
            if o["output_type"] == "error"
        ]

        assert failed == []

    def test_no_output_needs_the_network(self, path: Path) -> None:
        assert (
            re.findall(
                r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"']?(?:https?:)?//[^\"'\s>]+",
                shown(path),
            )
            == []
        )

    def test_its_code_needs_no_path_of_one_machine(self, path: Path) -> None:
        source = "\n".join("".join(cell["source"]) for cell in cells(path))

        assert re.findall(r"[\"'](?:/home|/root|/tmp|/work|/Users|[A-Z]:\\)[^\"']*", source) == []
