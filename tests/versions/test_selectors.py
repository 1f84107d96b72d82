"""Versions and the selectors that find one: every form of the design's words."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest

from mltrigger.errors import InvalidModel, InvalidName, NotFound
from mltrigger.versions.selector import Selector
from mltrigger.versions.version import ModelVersion, check_version


def versions(*numbers: str, name: str = "ocr") -> list[ModelVersion]:
    """Return registered versions in the order in which they were made."""
    return [
        ModelVersion(name, number, "callable", f"digest{i}", created_us=i, id=i)
        for i, number in enumerate(numbers, 1)
    ]


def chosen(selector: str, *numbers: str, **aliases: str) -> str:
    return Selector.parse(selector).choose(versions(*numbers), aliases).version


RELEASES = ("1.0.0", "1.0.2", "1.0.10", "1.2.0", "2.0.0-rc.1", "10.0.0", "0.9.0", "0.0.0+abc")


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("ocr:1.0.0", "1.0.0"),
        ("ocr:1.0", "1.0.10"),
        ("ocr:1", "1.2.0"),
        ("ocr:10", "10.0.0"),
        ("ocr:0", "0.9.0"),
        ("ocr:latest", "10.0.0"),
        ("ocr", "10.0.0"),
        ("ocr:", "10.0.0"),
        ("ocr@champion", "1.0.2"),
        ("ocr:0.0.0+abc", "0.0.0+abc"),
        ("ocr:2.0.0-rc.1", "2.0.0-rc.1"),
    ],
)
def test_every_form_of_selector_finds_its_version(selector: str, expected: str) -> None:
    assert chosen(selector, *RELEASES, champion="1.0.2") == expected


@pytest.mark.parametrize("order", list(itertools.permutations(["1.0.2", "1.0.10", "1.0.9"])))
def test_the_newest_patch_is_the_highest_and_not_the_last_registered(
    order: tuple[str, ...],
) -> None:
    assert chosen("ocr:1.0", *order) == "1.0.10"


@pytest.mark.parametrize("selector", ["ocr:1", "ocr:1.0", "ocr:latest", "ocr"])
def test_a_prerelease_is_only_called_by_its_full_name(selector: str) -> None:
    assert chosen(selector, "1.0.0", "1.0.1-rc.1", "1.1.0-alpha", "2.0.0-beta") == "1.0.0"


def test_a_model_with_prereleases_only_has_no_latest_and_the_error_names_them() -> None:
    with pytest.raises(NotFound, match=r"1\.0\.0-rc\.1"):
        chosen("ocr:latest", "1.0.0-rc.1")


def test_a_prefix_ends_at_a_dot() -> None:
    with pytest.raises(NotFound):
        chosen("ocr:1", "10.0.0", "11.2.3")
    with pytest.raises(NotFound):
        chosen("ocr:1.0", "1.10.0")


def test_latest_of_builds_only_is_the_one_made_last() -> None:
    assert chosen("ocr:latest", "0.0.0+zzz", "0.0.0+aaa", "0.0.0+mmm") == "0.0.0+mmm"


def test_latest_prefers_any_release_to_a_later_build() -> None:
    assert chosen("ocr:latest", "0.0.1", "0.0.0+aaa") == "0.0.1"


@pytest.mark.parametrize("selector", ["ocr:0", "ocr:0.0"])
def test_a_partial_version_never_means_a_build(selector: str) -> None:
    with pytest.raises(NotFound):
        chosen(selector, "0.0.0+aaa")


def test_a_release_with_build_metadata_is_a_release() -> None:
    assert chosen("ocr:1.0", "1.0.0+cuda", "1.0.1+cpu") == "1.0.1+cpu"
    assert chosen("ocr:1.0.0+cuda", "1.0.0+cuda", "1.0.1+cpu") == "1.0.0+cuda"


def test_an_alias_may_name_a_build_or_a_prerelease() -> None:
    assert chosen("ocr@next", "1.0.0", "2.0.0-rc.1", next="2.0.0-rc.1") == "2.0.0-rc.1"
    assert chosen("ocr@next", "1.0.0", "0.0.0+abc", next="0.0.0+abc") == "0.0.0+abc"


def test_an_unknown_alias_lists_the_near_ones() -> None:
    with pytest.raises(NotFound, match=r"no alias 'ocr@champio'; did you mean 'ocr@champion'"):
        chosen("ocr@champio", "1.0.0", champion="1.0.0")


def test_an_unknown_version_lists_the_near_ones() -> None:
    with pytest.raises(
        NotFound, match=r"no model version 'ocr:1\.0\.1'; did you mean 'ocr:1\.0\.0'"
    ):
        chosen("ocr:1.0.1", "1.0.0", "7.7.7")


def test_a_model_without_versions_is_unknown() -> None:
    with pytest.raises(NotFound, match=r"no model 'ocr'; bus\.models\(\) lists"):
        chosen("ocr:1.0.0")


@pytest.mark.parametrize(
    "text",
    [
        "ocr:v1",
        "ocr:1.0.0.0",
        "ocr:1.x",
        "ocr:newest",
        "ocr:1.0.0-",
        "ocr:1.0.0:2",
        "ocr: 1",
        "ocr:-1",
        "ocr:01.0.0",
    ],
)
def test_another_form_is_refused_with_all_the_right_ones(text: str) -> None:
    with pytest.raises(NotFound) as caught:
        Selector.parse(text)

    for form in ("ocr:1.0.0", "ocr:1.0", "ocr:1", "ocr:latest", "ocr@alias", "ocr:0.0.0+<hash>"):
        assert form in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":1.0.0",
        "@champion",
        "o c r:1",
        "-ocr:1",
        "ocr:1@champion",
        "ocr@",
        "ocr@a b",
        "é:1",
        "x" * 81,
    ],
)
def test_a_bad_name_in_a_selector_is_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        Selector.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "ocr:1.0.0",
        "ocr:1.0",
        "ocr:1",
        "ocr:latest",
        "ocr@champion",
        "ocr:0.0.0+abc",
        "my.model-2_x:1.0.0-rc.1+b",
    ],
)
def test_a_selector_is_written_as_it_was_read(text: str) -> None:
    assert str(Selector.parse(text)) == text
    assert Selector.parse(str(Selector.parse(text))) == Selector.parse(text)


def test_a_name_alone_is_written_out() -> None:
    assert str(Selector.parse("ocr")) == "ocr:latest"


@pytest.mark.parametrize(
    "version", ["1.0.0", "0.0.0", "0.0.1+abc", "1.0.0-rc.1", "1.2.3-alpha.1+build.5"]
)
def test_a_full_semantic_version_is_a_version(version: str) -> None:
    assert check_version(version) == version


@pytest.mark.parametrize(
    "version",
    [
        "1",
        "1.0",
        "v1.0.0",
        "1.0.0.0",
        "01.0.0",
        "1.0.0-",
        "",
        "latest",
        " 1.0.0",
        "1.0.0\n",
        1.0,
        None,
        b"1.0.0",
    ],
)
def test_anything_else_is_no_version(version: Any) -> None:
    with pytest.raises(InvalidModel, match=re.escape("is not a semantic version")):
        check_version(version)


def test_the_versions_of_builds_cannot_be_taken() -> None:
    with pytest.raises(InvalidModel, match="kept for builds"):
        check_version("0.0.0+mine")


def test_only_builds_are_builds() -> None:
    found = {
        v.version: v.is_build for v in versions("0.0.0+abc", "0.0.0", "0.0.0-rc.1", "1.0.0+abc")
    }

    assert found == {"0.0.0+abc": True, "0.0.0": False, "0.0.0-rc.1": False, "1.0.0+abc": False}


def test_a_version_is_written_as_name_and_number() -> None:
    assert str(versions("1.0.0")[0]) == "ocr:1.0.0"
