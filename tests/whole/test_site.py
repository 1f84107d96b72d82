"""The documentation as a site: it is built without a warning, its links lead somewhere, and it
fetches nothing.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import public_api
import pytest

ROOT = Path(__file__).parents[2]
EXT = ROOT / "docs" / "_ext"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built anew. It takes 15 s of a core."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    built = subprocess.run(
        [*command, "-d", str(folder / "doctrees"), str(ROOT / "docs"), str(folder / "html")],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert built.returncode == 0, built.stderr[-3000:]
    return folder / "html"


@pytest.mark.needs("sphinx", "furo", "myst_nb")
def test_the_site_is_built_without_a_warning_its_links_lead_somewhere_and_it_fetches_nothing(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXT))
    import check_site

    assert len(list(site.rglob("*.html"))) > 50
    assert list(check_site.complaints(site)) == []


@pytest.mark.needs("sphinx", "furo", "myst_nb")
def test_every_public_name_has_a_place_in_the_reference(site: Path) -> None:
    text = "".join(page.read_text("utf-8") for page in (site / "api").glob("*.html"))
    anchors = set(re.findall(r'<dt [^>]*id="([\w.]+)"', text))
    public = {line.partition("(")[0] for line in public_api.lines()} - {"mltrigger.__version__"}
    fields = {name for name in public if not callable(_found(name))}

    assert public - anchors - fields == set()
    assert fields - anchors <= {name for name in fields if name.rpartition(".")[2] in text}


def _found(path: str) -> object:
    """Return the value that *path* names."""
    module = next(
        home for home in sorted(public_api.MODULES, key=len)[::-1] if path.startswith(home)
    )
    value: object = importlib.import_module(module)
    for name in path.removeprefix(f"{module}.").split("."):
        value = getattr(value, name, None)
    return value


@pytest.mark.needs("sphinx", "furo", "myst_nb")
def test_the_tutorials_show_their_saved_outputs(site: Path) -> None:
    text = (site / "tutorials" / "01_quickstart.html").read_text("utf-8")

    assert "3 of 3 outcomes" in text and 'class="dataframe"' in text


PAGE = """
<html id="top"><head><link rel="stylesheet" href="site.css"><style>{style}</style></head>
<body><h1 id="here">Here</h1>{body}</body></html>
"""


@pytest.mark.parametrize(
    ("body", "style", "complaint"),
    [
        (
            '<a href="#here">x</a> <a href="page.html#here">x</a> <a href="https://x.org">x</a>',
            "",
            "",
        ),
        ('<a href="gone.html">x</a>', "", "page.html: gone.html is not there"),
        ('<a href="#gone">x</a>', "", "page.html: #gone has no such anchor"),
        ('<img src="gone.png">', "", "page.html: gone.png is not there"),
        (
            '<script src="https://cdn.org/x.js"></script>',
            "",
            "page.html: fetches https://cdn.org/x.js",
        ),
        ('<img src="//cdn.org/x.png">', "", "page.html: fetches //cdn.org/x.png"),
        ("", "@import 'https://cdn.org/x.css'", "page.html: fetches https: @import"),
    ],
)
def test_a_broken_link_and_a_file_from_outside_are_complained_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, style: str, complaint: str
) -> None:
    monkeypatch.syspath_prepend(str(EXT))
    import check_site

    (tmp_path / "page.html").write_text(PAGE.format(body=body, style=style))
    (tmp_path / "site.css").write_text("body { color: black }")

    assert list(check_site.complaints(tmp_path)) == [complaint][: bool(complaint)]


def test_a_style_sheet_that_fetches_is_complained_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXT))
    import check_site

    (tmp_path / "site.css").write_text("@font-face { src: url(https://fonts.org/x.woff2) }")

    assert "site.css: fetches from outside" in list(check_site.complaints(tmp_path))


def test_a_site_without_pages_is_complained_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXT))
    import check_site

    assert list(check_site.complaints(tmp_path)) == [f"{tmp_path}: there is no page"]


@pytest.mark.needs("sphinx")
def test_a_link_to_a_file_that_is_not_there_is_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(EXT))
    import repository

    seen: list[object] = []
    monkeypatch.setattr(repository.LOG, "warning", lambda *said, **_: seen.append(said))
    content = [
        "[a](../README.md) [b](../notebooks/01_quickstart.ipynb) [c](../setup.cfg) [d](../gone.md)"
    ]
    repository.lead(None, "promise", content)

    assert content[0].startswith("[a](index.md) [b](tutorials/01_quickstart.ipynb) c (`setup.cfg`)")
    assert len(seen) == 1 and "gone.md" in str(seen[0])
