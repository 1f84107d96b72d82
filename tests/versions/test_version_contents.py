"""What a released version is made of: its code, and what the code finds around it.

Anything else under its number is refused.
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
import json
import linecache
import os
import re
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from shared import wait_until

import mltrigger as mt
from mltrigger.versions.code import source as texts
from mltrigger.versions.code.captured import digest_of, fingerprint_of

ROOT = Path(__file__).parents[2]
_numbers = itertools.count()


class Notebook:
    """Runs cells as a kernel does: in one namespace, their text kept by linecache."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "__main__", "mt": mt}

    def run(self, *cells: str, name: str = "model") -> Any:
        for source in cells:
            file = f"<cell of contents {next(_numbers)}>"
            linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
            exec(compile(source, file, "exec"), self.names)
        return self.names[name]


@pytest.fixture
def bus() -> Iterator[mt.EventBus]:
    with mt.connect("memory://") as made:
        yield made


def released(bus: mt.EventBus, model: Any) -> None:
    bus.register(mt.model(model, name="m", version="1.0.0"))


MAKE = "def make(limit):\n    def model(n):\n        return n < limit\n    return model\n"
OTHERS = {
    "a captured number": (MAKE + "model = make({})", "1", "2", "the captured value 'limit'"),
    "a captured list": (MAKE + "model = make([1, {}])", "1", "2", "the captured value 'limit'"),
    "a captured dict": (
        MAKE + "model = make({{'a': {{'b': {}}}}})",
        "1",
        "2",
        "the captured value 'limit'",
    ),
    "a captured set": (
        MAKE + "model = make({{'a', {}}})",
        "'b'",
        "'c'",
        "the captured value 'limit'",
    ),
    "a captured array": (
        "import numpy as np\n" + MAKE + "model = make(np.full(5, {}))",
        "1.0",
        "2.0",
        "the captured value 'limit'",
    ),
    "an array of other numbers": (
        "import numpy as np\n" + MAKE + "model = make(np.ones(5, {}))",
        "'f4'",
        "'f8'",
        "'limit'",
    ),
    "a captured table": (
        "import pandas as pd\n" + MAKE + "model = make(pd.DataFrame({{'a': ['x', {}]}}))",
        "'y'",
        "'z'",
        "'limit'",
    ),
    "a captured object": (
        "class Scale:\n    def __init__(self, by): self.by = by\n"
        + MAKE
        + "model = make(Scale({}))",
        "1",
        "2",
        "'limit'",
    ),
    "a captured class": (
        MAKE + "class Kind:\n    def of(self): return {}\nmodel = make(Kind)",
        "1",
        "2",
        "the class 'limit'",
    ),
    "a positional default": (
        "LIMIT = {}\ndef model(n, most=LIMIT): return n < most",
        "1",
        "2",
        "the default of 'most'",
    ),
    "a keyword default": (
        "LIMIT = {}\ndef model(n, *, most=LIMIT): return n < most",
        "1",
        "2",
        "the default of 'most'",
    ),
    "a default of a lambda": (
        "LIMIT = {}\nmodel = lambda n, most=LIMIT: n < most",
        "1",
        "2",
        "the default of 'most'",
    ),
    "a default in a loop": (
        "for by in [3, {}]:\n    def model(n, by=by): return n * by",
        "1",
        "2",
        "the default of 'by'",
    ),
    "a global number": ("RATE = {}\ndef model(n): return n * RATE", "1", "2", "the global 'RATE'"),
    "a global list": (
        "RATES = [0, {}]\ndef model(n): return RATES[n]",
        "1",
        "2",
        "the global 'RATES'",
    ),
    "a global date": (
        "import datetime\nDAY = datetime.date(2024, 1, {})\ndef model(n): return DAY",
        "1",
        "2",
        "the global 'DAY'",
    ),
    "a global of an inner function": (
        "RATE = {}\ndef model(n): return (lambda: n * RATE)()",
        "1",
        "2",
        "the global 'RATE'",
    ),
    "a global of a method": (
        (
            "RATE = {}\nclass Made:\n    def predict(self, rows): return [r * RATE for r in"
            " rows]\nmodel = Made()"
        ),
        "1",
        "2",
        "'RATE'",
    ),
    "a fitted object": (
        (
            "from sklearn.linear_model import LinearRegression\nfitted ="
            " LinearRegression().fit([[0], [1]], [0, {}])\ndef model(n): return"
            " fitted.predict([[n]])[0]"
        ),
        "1",
        "2",
        "the global 'fitted'",
    ),
    "a captured pattern": (
        "import re\n" + MAKE + "model = make(re.compile({}))",
        "'a'",
        "'b'",
        "the captured value 'limit'",
    ),
    "a global pattern": (
        "import re\nSHAPE = re.compile('a', {})\ndef model(n): return SHAPE.match(n)",
        "0",
        "re.I",
        "'SHAPE'",
    ),
    "the values of a dict's get": ("model = dict(a={}).get", "1", "2", "its own code"),
    "a function of the notebook": (
        "def scale(n): return n * {}\ndef model(n): return scale(n)",
        "1",
        "2",
        "the function 'scale'",
    ),
    "a function of a function": (
        "def by(): return {}\ndef scale(n): return n * by()\ndef model(n): return scale(n)",
        "1",
        "2",
        "the function 'by'",
    ),
    "a cached function": (
        (
            "import functools\n@functools.cache\ndef scale(n): return n * {}\ndef model(n): return"
            " scale(n)"
        ),
        "1",
        "2",
        "the function 'scale'",
    ),
    "another model": (
        "@mt.model('scaled')\ndef scale(n): return n * {}\ndef model(n): return scale(n)",
        "1",
        "2",
        "the function 'scale'",
    ),
    "a global of a function": (
        "RATE = {}\ndef scale(n): return n * RATE\ndef model(n): return scale(n)",
        "1",
        "2",
        "the global 'RATE'",
    ),
    "a class of the notebook": (
        "class Scale:\n    by = {}\ndef model(n): return n * Scale.by",
        "1",
        "2",
        "the class 'Scale'",
    ),
    "an argument of a decorator": (
        (
            "def times(by):\n    def wrap(f):\n        return lambda n: f(n) * by\n    return"
            " wrap\n@times({})\ndef model(n): return n"
        ),
        "1",
        "2",
        "the captured value 'by'",
    ),
    "an argument of the decorator of a function": (
        (
            "def times(by):\n    def wrap(f):\n        return lambda n: f(n) * by\n    return"
            " wrap\n@times({})\ndef scale(n): return n\ndef model(n): return scale(n)"
        ),
        "1",
        "2",
        "the captured value 'by'",
    ),
    "lambdas on one line": (
        "models = (lambda n: n < 10), (lambda n: n < 99); model = models[{}]",
        "0",
        "1",
        "its own code",
    ),
    "lambdas within each other": (
        "outer = lambda n: (lambda k: k)(n); inner = lambda n: (lambda k: k); model = {}",
        "outer",
        "inner",
        "code",
    ),
    "lambdas over lines": (
        (
            "models = {{\n  'a': lambda n: (\n    n < 1), 'b': lambda n: (\n    n < 2)}}\nmodel ="
            " models[{}]"
        ),
        "'a'",
        "'b'",
        "code",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_data_or_code_under_a_released_version_is_refused_and_named(
    bus: mt.EventBus, case: str
) -> None:
    source, one, other, named = OTHERS[case]
    released(bus, Notebook().run(source.format(one)))

    # the cell again, in a kernel that has started anew
    released(bus, Notebook().run(source.format(one)))
    with pytest.raises(
        mt.VersionConflict,
        match=(
            rf"m:1\.0\.0 is registered with other code or data \(.*{re.escape(named)}.* immutable"
        ),
    ):
        released(bus, Notebook().run(source.format(other)))


def test_a_refusal_names_all_that_differs_and_nothing_else(bus: mt.EventBus) -> None:
    source = "A, B, C = {}, {}, 0\ndef model(n): return n + A + B + C"
    released(bus, Notebook().run(source.format(1, 1)))

    with pytest.raises(
        mt.VersionConflict, match=r"\(the global 'A' differs, the global 'B' differs\)"
    ):
        released(bus, Notebook().run(source.format(2, 2)))


def test_a_global_that_is_no_longer_there_is_named_as_missing(bus: mt.EventBus) -> None:
    notebook = Notebook()
    released(bus, notebook.run("A = 1\ndef model(n): return n + A"))
    del notebook.names["A"]

    with pytest.raises(mt.VersionConflict, match="the global 'A' is missing"):
        released(bus, notebook.run("def model(n): return n + A"))


SAME = {
    "a list that the model appends to": (
        "seen = []",
        "def model(n):\n    seen.append(n)\n    return len(seen)",
    ),
    "a cache that the model fills": (
        "known = {}",
        "def model(n):\n    known[n] = known.get(n, 0) + 1\n    return known[n]",
    ),
    "a cache with setdefault": ("known = {}", "def model(n):\n    return known.setdefault(n, [n])"),
    "a counter": ("count = 0", "def model(n):\n    global count\n    count += 1\n    return count"),
    "what is loaded at the first call": (
        "loaded = None",
        (
            "def model(n):\n    global loaded\n    if loaded is None: loaded = [1, 2]\n    return"
            " loaded[0]"
        ),
    ),
    "what another function loads": (
        "loaded = None",
        (
            "def load():\n    global loaded\n    loaded = [1]\ndef model(n):\n    load()\n   "
            " return loaded[0]"
        ),
    ),
    "an object that counts": (
        "class Counter:\n    n = 0\n    def tick(self): self.n += 1\ncounter = Counter()",
        "def model(n):\n    counter.tick()\n    return n",
    ),
    "a captured list": (
        "seen = []",
        (
            "def make(kept):\n    def model(n):\n        kept.append(n)\n        return n\n   "
            " return model\nmodel = make(seen)"
        ),
    ),
    "a captured count": (
        "pass",
        (
            "def make(count):\n    def model(n):\n        nonlocal count\n        count += 1\n     "
            "   return n\n    return model\nmodel = make(0) if 'model' not in globals() else model"
        ),
    ),
    "a generator of chance": (
        "import random\nchance = random.Random(7)",
        "def model(n): return chance.random() * 0",
    ),
    "numpy's generator of chance": (
        "import numpy as np\nchance = np.random.default_rng(7)",
        "def model(n): return chance.random() * 0",
    ),
    "an iterator": (
        "import itertools\nnumbers = itertools.count()",
        "def model(n): return next(numbers)",
    ),
    "a secret that was renewed": (
        "import uuid\napi_key = uuid.uuid4().hex",
        "def model(n): return len(api_key)",
    ),
    "a default that is changed": (
        "seen = []",
        "def model(n, kept=seen):\n    kept.append(n)\n    return n",
    ),
}


@pytest.mark.parametrize("case", SAME)
def test_a_cell_that_runs_again_after_calls_is_the_same_version(
    bus: mt.EventBus, case: str
) -> None:
    before, source = SAME[case]
    notebook = Notebook()
    bus.subscribe("t", notebook.run(before, source), name="s", version="1.0.0")
    assert bus.fire("t", [1, 2], progress=False).results()["output"].notna().all()
    if "secret" in case:
        notebook.run(before, name="api_key")

    bus.subscribe("t", notebook.run(source), name="s", version="1.0.0")

    assert len(bus.models()) == 1


@pytest.mark.needs("torch")
def test_weights_of_a_network_that_a_function_calls_are_a_part_of_its_version(
    bus: mt.EventBus,
) -> None:
    source = """
import torch
torch.manual_seed({})
net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Dropout(), torch.nn.Linear(3, 1))
def model(row): return net(torch.tensor(row)).tolist()
"""
    notebook = Notebook()
    released(bus, notebook.run(source.format(1)))
    notebook.names["net"].eval()
    released(bus, notebook.names["model"])
    released(bus, Notebook().run(source.format(1)))

    with pytest.raises(mt.VersionConflict, match="the global 'net' differs"):
        released(bus, Notebook().run(source.format(2)))


@pytest.mark.needs("torch")
def test_a_network_is_the_same_version_after_it_has_answered(bus: mt.EventBus) -> None:
    import torch

    net = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Dropout()).train()
    bus.subscribe("rows", mt.model(net, name="net"))
    bus.fire("rows", [[1.0, 2.0]], progress=False)
    bus.subscribe("rows", mt.model(net, name="net"))

    assert len(bus.models()) == 1


@pytest.mark.needs("xgboost")
def test_a_booster_that_a_function_calls_is_a_part_of_its_version(bus: mt.EventBus) -> None:
    source = """
import numpy as np, xgboost
booster = xgboost.train({{"max_depth": 1}}, xgboost.DMatrix(np.arange(8.0).reshape(8, 1), np.arange(8.0) * {}), 2)
def model(row): return booster.predict(xgboost.DMatrix(np.array([row])))[0]
"""
    released(bus, Notebook().run(source.format(1)))
    released(bus, Notebook().run(source.format(1)))

    with pytest.raises(mt.VersionConflict, match="the global 'booster' differs"):
        released(bus, Notebook().run(source.format(2)))


def test_what_stands_beside_a_lambda_is_no_part_of_it(bus: mt.EventBus) -> None:
    released(bus, Notebook().run("model = [lambda n: n + 1, 'timeout_s', 3][0]"))
    released(bus, Notebook().run("model = [lambda n: n + 1,  # quicker\n 'timeout_s', 9][0]"))


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("(lambda a: a.append(a) or a)([])", id="a list in itself"),
        pytest.param("[open(__import__('os').devnull)]", id="an open file"),
        pytest.param("[__import__('threading').Lock()]", id="a lock"),
        pytest.param("10 ** 5000", id="too many digits"),
        pytest.param("[[n] for n in range(150_000)]", id="very many parts"),
        pytest.param("list(range(2_000_000))", id="a long list"),
        pytest.param("{str(n): n for n in range(300_000)}", id="a large dict"),
        pytest.param("{str(n) for n in range(100_000)}", id="a large set"),
        pytest.param(
            "__import__('functools').reduce(lambda deep, _: [deep], range(5000), [])",
            id="very deep",
        ),
        pytest.param(
            "__import__('numpy').array([{'a': 1}, None], dtype=object)", id="an array of objects"
        ),
        pytest.param("__import__('os').environ", id="the environment"),
        pytest.param(
            "type('Hostile', (), {'__len__': lambda s: 1 / 0, '__reduce_ex__': lambda s, p: 1 / 0,"
            " '__eq__': lambda s, o: 1 / 0})()",
            id="hostile",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_whatever_is_captured_has_a_digest(value: str) -> None:
    source = MAKE + f"model = make({value})"

    assert digest_of(Notebook().run(source)) == digest_of(Notebook().run(source))


def test_functions_that_call_each_other_have_a_digest() -> None:
    source = (
        "def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n != 0 and even(n -"
        " {})\nmodel = even"
    )

    assert digest_of(Notebook().run(source.format(1))) == digest_of(
        Notebook().run(source.format(1))
    )
    assert digest_of(Notebook().run(source.format(1))) != digest_of(
        Notebook().run(source.format(2))
    )


def test_a_function_that_finds_nothing_around_it_is_its_code_alone() -> None:
    found = fingerprint_of(
        Notebook().run("import json\ndef model(n, most=3, *, least=None): return json.dumps(n)")
    )

    assert (found.digest, found.around) == (found.code, {})


def test_a_version_of_a_release_that_looked_at_the_code_alone_goes_on(bus: mt.EventBus) -> None:
    source = "RATE = 2\ndef model(n): return n * RATE"
    model = mt.model(Notebook().run(source), name="m", version="1.0.0")
    described = model.describe()
    code = json.loads(described.options or "")["parts"]["code"]
    bus.registry.register(dataclasses.replace(described, digest=code, options="{}"))

    released(bus, Notebook().run(source))
    with pytest.raises(mt.VersionConflict):
        released(bus, Notebook().run(source.replace("*", "+")))


MODULE = """
import os
RATE = {rate}
RATES = [RATE, 2]
FOLDER = os.path.dirname(__file__)
STARTED = os.getpid()
FILLED = None

def fill():
    global FILLED
    FILLED = os.getpid()

def of_constants(n, by=RATE): return n * RATE * RATES[1]
def of_its_place(n, here=FOLDER): return FOLDER, STARTED, FILLED
def of_the_notebook(words={{"b", "a"}}): return words
"""


def in_a_process(folder: Path, program: str, seed: str = "0") -> Any:
    environment = {
        **os.environ,
        "PYTHONHASHSEED": seed,
        # a module that is written twice in a second would be taken for the first one
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}",
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
        check=True,
    )
    return json.loads(done.stdout)


FIND = "import json, rates\nfrom mltrigger.versions.code.captured import digest_of\n{}print(json.dumps([digest_of(rates.of_constants), digest_of(rates.of_its_place)]))"


def test_constants_of_a_module_count_and_what_depends_on_its_place_does_not(tmp_path: Path) -> None:
    found = {}
    for number, (folder, rate) in enumerate([("one", 3), ("other", 3), ("changed", 4)]):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rates.py").write_text(MODULE.format(rate=rate))
        found[folder] = in_a_process(
            tmp_path / folder, FIND.format("rates.fill()\n" if number else ""), str(number)
        )

    assert found["one"] == found["other"]
    assert found["one"][0] != found["changed"][0]
    assert found["one"][1] == found["changed"][1]


def test_every_process_finds_the_same_digest_of_what_is_captured(tmp_path: Path) -> None:
    (tmp_path / "cell.py").write_text(
        "import datetime, enum, json, re\nimport numpy as np\nimport pandas as pd\nfrom"
        " mltrigger.versions.code.captured import digest_of\nclass Colour(enum.Enum):\n    RED ="
        " 'r'\n    BLUE = 'b'\nclass Scale:\n    def __init__(self): self.words = {'x', 'y',"
        " 'z'}\nwords, table, scale = {'a', 'b', 'c'}, pd.DataFrame({'a': [1, 2], 'b': ['x',"
        " None]}), Scale()\nday, pattern, matrix = datetime.date(2024, 1, 1), re.compile('a+'),"
        " np.arange(6).reshape(2, 3).T\nlarge = {str(n) for n in range(5000)}\ndef of(n): return"
        " words, table, scale, day, pattern, matrix, Colour.RED, large\ndef make(*captured): return"
        " lambda n: captured\nprint(json.dumps([digest_of(of), digest_of(make(words, table, scale,"
        " day, matrix, Colour.BLUE))]))\n"
    )
    program = "import runpy; runpy.run_path('cell.py', run_name='__main__')"

    assert in_a_process(tmp_path, program, "1") == in_a_process(tmp_path, program, "2")


def test_a_worker_refuses_a_module_with_another_constant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rates.py").write_text(MODULE.format(rate=3))
    url = f"sqlite:///{tmp_path}/bus.db"
    in_a_process(
        tmp_path,
        f"import mltrigger as mt\nwith mt.connect({url!r}) as bus: bus.subscribe('t',"
        " mt.model('rates:of_constants', version='1.0.0'), name='s', listen=False)\nprint(1)",
    )
    # as long as before, Python might take the compiled one of this second
    (tmp_path / "rates.py").write_text(MODULE.format(rate=40))

    with mt.connect(url) as bus:
        monkeypatch.syspath_prepend(str(tmp_path))
        resolve: Callable[[], Any] = bus._resolver.of("of_constants:1.0.0")
        with pytest.raises(mt.NotFound, match=r"holds other code now .*the global 'RATE' differs"):
            resolve()


@pytest.mark.skipif(sys.platform == "win32", reason="processes cannot be killed as a group there")
def test_a_process_has_another_global_once_the_cell_runs_again_and_that_is_another_build(
    bus: mt.EventBus,
) -> None:
    notebook = Notebook()
    cell = "def model(n): return n * RATE"
    first = bus.subscribe("t", notebook.run("RATE = 2", cell), name="s", isolation="process")
    before = first.selector
    assert bus.fire("t", [1], progress=False).results()["output"].tolist() == [2]

    notebook.run("RATE = 3")
    assert bus.fire("t", [1], progress=False).results()["output"].tolist() == [2]
    again = bus.subscribe("t", notebook.run(cell), name="s", isolation="process")

    assert bus.fire("t", [1], progress=False).results()["output"].tolist() == [3]
    assert before != again.selector


# -- files -----------------------------------------------------------------------------------------

WEIGHING = """
import json

def price(n):
    return n * json.load(open("weights.json"))

class Pricing:
    def __init__(self):
        self.factor = json.load(open("weights.json"))

    def __call__(self, n):
        return n * self.factor
"""


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the models of WEIGHING read."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.json"
    path.write_text("2")
    return path


def weighing(name: str, files: Any = ("weights.json",), version: str | None = "1.0.0") -> Any:
    return mt.model(
        Notebook().run(WEIGHING, name=name), name="m", version=version, files=list(files)
    )


@pytest.mark.parametrize("name", ["price", "Pricing"])
def test_another_content_of_a_file_under_a_released_version_is_refused(
    bus: mt.EventBus, weights: Path, name: str
) -> None:
    bus.register(weighing(name))
    weights.write_text("2")
    bus.register(weighing(name))
    weights.write_text("3")

    with pytest.raises(
        mt.VersionConflict, match=r"m:1\.0\.0 .*the content of the file 'weights\.json' differs"
    ):
        bus.register(weighing(name))
    with pytest.raises(
        mt.VersionConflict, match=r"the content of the file 'weights\.json' is missing"
    ):
        bus.register(mt.model(weighing(name), files=[]))


def test_without_a_version_another_content_is_another_build(
    bus: mt.EventBus, weights: Path
) -> None:
    one = bus.register(weighing("price", version=None))
    weights.write_text("3")

    assert bus.register(weighing("price", version=None)).version != one.version


def test_files_may_be_given_when_a_model_is_registered_and_by_an_absolute_path(
    bus: mt.EventBus, weights: Path
) -> None:
    price = Notebook().run(WEIGHING, name="price")
    bus.register(price, name="m", version="1.0.0", files=[weights])
    weights.write_text("3")

    with pytest.raises(mt.VersionConflict) as caught:
        bus.register(price, name="m", version="1.0.0", files=[weights])
    assert "'weights.json'" in str(caught.value)
    assert str(weights.parent) not in str(caught.value)


@pytest.mark.parametrize("change", ["content", "new file", "name", "gone"])
def test_of_a_folder_all_files_count(bus: mt.EventBus, weights: Path, change: str) -> None:
    inner = weights.parent / "model" / "layers"
    inner.mkdir(parents=True)
    (inner / "one.bin").write_bytes(b"\0" * 9)
    bus.register(weighing("price", ["model"]))
    bus.register(weighing("price", ["model"]))
    if change == "content":
        (inner / "one.bin").write_bytes(b"\1" * 9)
    elif change == "new file":
        (inner / "two.bin").touch()
    elif change == "name":
        (inner / "one.bin").rename(inner / "first.bin")
    else:
        (inner / "one.bin").unlink()

    with pytest.raises(mt.VersionConflict, match="the file 'model'"):
        bus.register(weighing("price", ["model"]))


def test_a_file_that_is_not_there_is_told_when_the_model_is_registered(
    bus: mt.EventBus, weights: Path
) -> None:
    model = weighing("price", [weights.parent / "other.json", "weights.json"])

    with pytest.raises(mt.InvalidModel, match=r"model 'm': files: there is no 'other\.json' here"):
        bus.register(model)


@pytest.mark.parametrize(
    "files",
    [
        "weights.json",
        b"weights.json",
        [b"weights.json"],
        [1],
        {"weights.json": 1},
        ["a\0b"],
        [""],
        7,
    ],
)
def test_files_are_a_list_of_names(files: Any) -> None:
    with pytest.raises(mt.InvalidModel, match=r"files=.*write a list of names"):
        mt.model(len, name="m", files=files)


def test_a_large_file_is_read_piece_by_piece(bus: mt.EventBus, weights: Path) -> None:
    with weights.open("wb") as file:
        file.truncate(100 * 1024 * 1024)
    tracemalloc.start()
    try:
        bus.register(weighing("price"))
        assert tracemalloc.get_traced_memory()[1] < 20 * 1024 * 1024
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("isolation", ["thread", "process"])
@pytest.mark.parametrize("name", ["price", "Pricing"])
def test_a_model_is_not_called_with_another_content_than_its_version_has(
    bus: mt.EventBus, weights: Path, name: str, isolation: str
) -> None:
    sub = bus.subscribe("orders", weighing(name), listen=False, isolation=isolation)
    stat = weights.stat()
    weights.write_text("3")
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    bus.publish("orders", 50)
    sub.start()

    wait_until(
        lambda: (
            "'weights.json' changed since the version was registered"
            in f"{sub.state} {sub.invocations()['error'].tolist()}"
        )
    )
    assert sub.results().empty or sub.results()["output"].isna().all()
    assert sub.dead_letters().empty


def test_a_function_is_not_called_once_its_file_has_changed(
    bus: mt.EventBus, weights: Path
) -> None:
    sub = bus.subscribe("orders", weighing("price"))
    assert bus.fire("orders", [50], progress=False).results()["output"].tolist() == [100]
    weights.write_text("3")
    bus.publish("orders", 50)

    wait_until(lambda: "changed since" in str(sub.invocations()["error"].tolist()))
    assert sub.invocations()["reason"].tolist()[-1] == "model_unavailable"
    assert sub.dead_letters().empty


def test_an_object_that_has_read_its_file_goes_on(bus: mt.EventBus, weights: Path) -> None:
    bus.subscribe("orders", weighing("Pricing"))
    assert bus.fire("orders", [50], progress=False).results()["output"].tolist() == [100]
    weights.write_text("3")

    assert bus.fire("orders", [50], progress=False).results()["output"].tolist() == [100]


def test_a_worker_refuses_another_content_before_it_imports_the_module(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (weights.parent / "weighing.py").write_text(
        f"import pathlib\npathlib.Path('imported').touch()\n{WEIGHING}"
    )
    url = f"sqlite:///{weights.parent}/bus.db"
    model = "mt.model('weighing:Pricing', name='m', version='1.0.0', files=['weights.json'])"
    in_a_process(
        weights.parent,
        f"import mltrigger as mt\nwith mt.connect({url!r}) as bus: bus.register({model})\nprint(1)",
    )
    Path("imported").unlink()
    weights.write_text("3")
    monkeypatch.syspath_prepend(str(weights.parent))

    with mt.connect(url) as bus:
        sub = bus.subscribe("orders", "m:1.0.0")
        wait_until(lambda: "'weights.json' changed since" in sub.state)
        assert not Path("imported").exists()
    weights.write_text("2")
    with mt.connect(url) as bus:
        bus.subscribe("orders", "m:1.0.0")
        assert bus.fire("orders", [50], progress=False).results()["output"].tolist() == [100]


# -- before it is imported -------------------------------------------------------------------------

MODEL = "@mt.model('m', version='1.0.0')\\n"
MODEL = "@mt.model('m', version='1.0.0')\n"
HARMFUL = "import pathlib\npathlib.Path('imported').touch()\n"


@pytest.mark.parametrize(
    ("module", "decorator", "now", "why"),
    [
        pytest.param(
            "scoring", "", "def score(n): return n + 2\n", "holds other code now", id="other code"
        ),
        pytest.param(
            "scoring", "", "def other(n): return n + 1\n", "is not there", id="no such function"
        ),
        pytest.param(
            "inner.parts.scoring",
            MODEL,
            "def score(n): return n + 2\n",
            "holds other code now",
            id="in packages",
        ),
    ],
)
def test_a_module_with_other_code_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, decorator: str, now: str, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
    path.parent.mkdir(parents=True, exist_ok=True)
    for folder in [*path.parents][: module.count(".")]:
        (folder / "__init__.py").write_text(HARMFUL)
    begin = f"{HARMFUL}import mltrigger as mt\n{decorator}"
    path.write_text(begin + "def score(n):\n    # adds\n    return n + 1\n")
    url = f"sqlite:///{tmp_path}/bus.db"
    model = f"mt.model('{module}:score', name='m', version='1.0.0')"
    in_a_process(
        tmp_path,
        f"import mltrigger as mt\nwith mt.connect({url!r}) as bus: bus.register({model})\nprint(1)",
    )
    Path("imported").unlink()
    path.write_text(begin + now)

    with mt.connect(url) as bus:
        sub = bus.subscribe("t", "m:1.0.0")
        wait_until(lambda: why in sub.state)
        assert not Path("imported").exists()
        assert not {module, module.partition(".")[0]} & set(sys.modules)

    path.write_text(begin + "def score(n):\n    return n + 1\n")
    with mt.connect(url) as bus:
        bus.subscribe("t", "m:1.0.0")
        assert bus.fire("t", [1], progress=False).results()["output"].tolist() == [2]
    for name in [name for name in sys.modules if name.partition(".")[0] in ("scoring", "inner")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("class score:\n    def __call__(self, n): return n + {}\n", id="a class"),
        pytest.param(
            "class Score:\n    def __call__(self, n): return n + {}\nscore = Score()\n",
            id="an object",
        ),
        pytest.param(
            "import functools\n@functools.cache\ndef score(n): return n + {}\n",
            id="a decorated function",
        ),
        pytest.param(
            "def make(by): return lambda n: n + by\nglobals()['score'] = make({})\n",
            id="a name that is made",
        ),
        pytest.param("if True:\n    def score(n): return n + {}\n", id="within an if"),
    ],
)
def test_what_only_importing_can_tell_is_compared_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    url = f"sqlite:///{tmp_path}/bus.db"
    for name, now in (("the_same", 1), ("another", 2)):
        (tmp_path / f"{name}.py").write_text(source.format(1))
        model = f"mt.model('{name}:score', name={name!r}, version='1.0.0')"
        in_a_process(
            tmp_path,
            f"import mltrigger as mt\nwith mt.connect({url!r}) as bus:"
            f" bus.register({model})\nprint(1)",
        )
        (tmp_path / f"{name}.py").write_text(source.format(now))

    with mt.connect(url) as bus:
        bus.subscribe("t", "the_same:1.0.0", name="the-same")
        sub = bus.subscribe("u", "another:1.0.0", name="another")
        assert bus.fire("t", [1], progress=False).results()["output"].tolist() == [2]
        wait_until(lambda: "another:score holds other code now" in sub.state)
    for name in ("the_same", "another"):
        sys.modules.pop(name, None)


def test_bus_that_a_model_uses_is_no_part_of_its_version() -> None:
    def using(bus: mt.EventBus) -> mt.Model:
        def publishes(n: int) -> None:
            bus.publish("out", n)

        return mt.model(publishes, name="publishes")

    with mt.connect("memory://") as one, mt.connect("memory://") as other:
        began_s = time.monotonic()
        versions = [bus.register(using(bus)).version for bus in (one, other)]

        assert versions[0] == versions[1]
        assert time.monotonic() - began_s < 5  # it is not walked through


def test_a_data_class_has_one_digest_however_python_was_started(tmp_path: Path) -> None:
    """Its methods are made by exec. From 3.13 on, inspect gives them the text of ``python -c``."""
    (tmp_path / "pages.py").write_text(
        "import dataclasses\n"
        "@dataclasses.dataclass\nclass Page:\n    n: int\n"
        "def read(data): return Page(**data).n\n"
    )
    program = "import mltrigger as mt\n\n\n\nprint(mt.model('pages:read', name='read').describe().digest)\n"
    (tmp_path / "program.py").write_text(program)
    path = os.pathsep.join([str(Path(mt.__file__).parents[1]), str(tmp_path)])

    digests = {
        subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for arguments in (["program.py"], ["-c", program], ["-c", f"\n\n\n{program}"])
    }

    assert len(digests) == 1


def test_a_parser_that_another_thread_disturbs_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python 3.11 raises SystemError when the garbage of one parse makes another one run."""
    parse, refused = ast.parse, [SystemError("AST constructor recursion depth mismatch")] * 2

    def disturbed(*given: Any, **named: Any) -> Any:
        if refused:
            raise refused.pop()
        return parse(*given, **named)

    texts._tree.cache_clear()
    monkeypatch.setattr(ast, "parse", disturbed)
    made = mt.model("doubled")(lambda n: n * 2)

    assert made.describe() == mt.model("doubled")(lambda n: n * 2).describe()
    assert not refused
