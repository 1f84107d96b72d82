"""The package's little server of the Open Inference Protocol, in a process of its own.

Its address is the first line that it prints::

    python tests/helpers/oip_server.py --port 0 models.py:iris     # an attribute or a function of a file; without one, an iris classifier
"""

from __future__ import annotations

import argparse
import contextlib
import runpy
from collections.abc import Iterable

from mltrigger.testing.oip import DTYPES, Arrays, OipServer, Refused, Served, of_sklearn

__all__ = ["DTYPES", "Arrays", "OipServer", "Refused", "Served", "iris", "of_sklearn"]


def iris() -> Served:
    """Return a classifier of irises."""
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    return of_sklearn(
        "iris",
        LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True)),
        method="predict_proba",
    )


def _named(places: Iterable[str]) -> list[Served]:
    found: list[Served] = []
    for place in places:
        path, _, name = place.rpartition(":")
        value = runpy.run_path(path)[name]
        value = value() if callable(value) else value
        found += (
            [value]
            if isinstance(value, Served) or type(value).__name__ == "Served"
            else list(value)
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Serve models by the Open Inference Protocol v2 on loopback."
    )
    parser.add_argument(
        "models",
        nargs="*",
        help="file.py:attribute, each a Served, several, or a function that returns them",
    )
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    server = OipServer(*(_named(given.models) or [iris()]), port=given.port, keep=False)
    print(server.url, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.wait()
    server.close()


if __name__ == "__main__":
    main()
