"""The README: its Python blocks run as they are printed, one after the other, in an empty folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(
    r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
)
RUN = """
import json, pathlib

names, read = {"__name__": "readme"}, []
for number, block in enumerate(json.loads(pathlib.Path("blocks.json").read_text()), 1):
    exec(compile(block, f"block {number}", "exec"), names)
    if "document-type" in block:
        read = names["mt"].subscription("document-type").results()["outcome"].tolist()
scores = names["run"].results()["score"].tolist()
names["mt"].close()
print(json.dumps({"scores": scores, "read": read}))
"""


def test_the_blocks_of_the_readme_run_as_printed_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "blocks.json").write_text(json.dumps(BLOCKS))
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("MLTRIGGER_URL", "MLTRIGGER_LOG")
    }

    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=tmp_path,
        env=kept | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"scores": [1, -1], "read": ["succeeded"]}
    assert "Warning" not in done.stderr
