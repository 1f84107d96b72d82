"""The plugin of pytest: each file ``*.case.json`` is a test of the model in the working tree.

``mltrigger export-case`` writes such files. Put them beside the tests. pytest finds this plugin by
itself. It does nothing where no such file is collected.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mltrigger.testing.case import Case

SUFFIX = ".case.json"
_OPTION = "--case-model"
_INI = "case_models"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--case-model``, and ``case_models`` of the configuration."""
    said = "the model of cases: module:attribute, or NAME=module:attribute for cases of model NAME"
    parser.getgroup("mltrigger").addoption(
        _OPTION, action="append", default=[], metavar="PATH", help=f"{said} (may be repeated)"
    )
    parser.addini(_INI, type="linelist", help=f"{said}, one a line")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> CaseFile | None:
    """Take the files of cases."""
    if not file_path.name.endswith(SUFFIX):
        return None
    return CaseFile.from_parent(parent, path=file_path)


class CaseFile(pytest.File):
    """The file of one case."""

    def collect(self) -> Iterator[pytest.Item]:
        """Yield its test."""
        from mltrigger.errors import MltriggerError
        from mltrigger.testing.case import Case

        try:
            case = Case.from_json(self.path.read_bytes())
        except MltriggerError as error:
            raise self.CollectError(str(error)) from error
        yield CaseItem.from_parent(self, name=self.path.name.removesuffix(SUFFIX), case=case)


class CaseItem(pytest.Item):
    """The test of one case."""

    def __init__(self, *, case: Case, **given: Any) -> None:
        super().__init__(**given)
        self.case = case

    def runtest(self) -> None:
        """Run the model of the working tree. Fail if it does not answer as recorded."""
        from mltrigger.testing.rerun import rerun

        root = str(self.config.rootpath)
        if root not in sys.path:
            sys.path.insert(0, root)
        rerun(self.case, self._path())

    def _path(self) -> str | None:
        """Return the import path that the user gave for this case: for its model before for all."""
        given = [*self.config.getini(_INI), *self.config.getoption(_OPTION)]
        own = [each.partition("=")[2] for each in given if each.startswith(f"{self._model}=")]
        for_all = [each for each in given if "=" not in each]
        return next(reversed([*for_all, *own]), None)

    @property
    def _model(self) -> str:
        return self.case.model.partition(":")[0]

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return the difference alone, without the frames of this package."""
        from mltrigger.errors import MltriggerError
        from mltrigger.testing.rerun import CaseFailed

        if isinstance(excinfo.value, (CaseFailed, MltriggerError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        """Return the place and the name of the test."""
        return self.path, None, f"case {self.name}"
