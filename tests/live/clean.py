"""``make clean-aws PREFIX=…``: remove what a run of ``make test-aws`` that was killed has left
behind.
"""

from __future__ import annotations

import sys

import rig


def main() -> int:
    where = rig.region()
    if where is None or len(sys.argv) != 2 or not sys.argv[1]:
        print(
            "make clean-aws PREFIX=mlt-live-… with the prefix that the run has printed, and"
            " AWS_REGION as it was then",
            file=sys.stderr,
        )
        return 2
    janitor = rig.Janitor(sys.argv[1], where)
    janitor.clean()
    print(
        "removed: "
        + (
            ", ".join(f"{count} {kind}s" for kind, count in janitor.removed.items())
            or "nothing was there"
        )
    )
    for problem in janitor.problems:
        print(f"not removed: {problem}", file=sys.stderr)
    return 1 if janitor.problems else 0


if __name__ == "__main__":
    sys.exit(main())
