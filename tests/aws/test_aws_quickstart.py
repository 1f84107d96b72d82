"""The test of the seam: the quickstart, with another URL and nothing else, gives on AWS what its
saved outputs say.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from emulators import CREDENTIALS, REGION, Emulator

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "01_quickstart.ipynb"


def test_quickstart_runs_unchanged_on_aws(emulator: Emulator, tmp_path: Path) -> None:
    url = f"aws://{REGION}/{emulator.fresh_prefix()}"
    text = NOTEBOOK.read_text()
    assert 'mt.use(\\"memory://\\")' in text
    # What a bus calls itself is the only thing in its outputs that may differ.
    text = (
        text.replace("memory://", url)
        .replace("EventBus memory", f"EventBus {url}")
        .replace("'memory'", f"'{url}'")
    )
    (tmp_path / NOTEBOOK.name).write_text(text)

    strictly = [
        "-p",
        "nbval",
        "--nbval",
        "--nbval-current-env",
        "--nbval-sanitize-with",
        str(ROOT / "tests" / "helpers" / "nbval-sanitize.cfg"),
        "--nbval-cell-timeout",
        "120",
    ]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *strictly, NOTEBOOK.name],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "AWS_ENDPOINT_URL": emulator.url,
            "AWS_ACCESS_KEY_ID": CREDENTIALS["aws_access_key_id"],
            "AWS_SECRET_ACCESS_KEY": CREDENTIALS["aws_secret_access_key"],
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert run.returncode == 0, run.stdout[-4000:]
