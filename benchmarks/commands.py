"""Commands: how long a person waits for `tessella --help`, for the test suite and for the demo.

python benchmarks/commands.py            # on a quiet machine; writes docs/results/commands.json
"""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


def seconds(command: list[str], times: int) -> float:
    """The quickest of several runs, in seconds."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        took.append(time.perf_counter() - began)
    return min(took)


def record(name: str, value: float, unit: str, target: float) -> dict:
    """One number with its upper bound."""
    print(f"{name}: {value:.2f} {unit} (at most {target})")
    return {
        "topic": "translation",
        "name": name,
        "value": round(value, 2),
        "unit": unit,
        "target": f"<= {target}",
        "met": value <= target,
        "command": "python benchmarks/commands.py",
        "data": "",
        "split": "",
        "signature": None,
        "seeds": [],
        "hardware": f"{os.cpu_count()} cores AMD EPYC (Zen 4)",
        "date": dt.date.today().isoformat(),
    }


def main() -> None:
    """The command."""
    rows = [record("tessella --help", seconds([str(BIN / "tessella"), "--help"], 5), "s", 0.5)]
    suite = seconds([sys.executable, "-m", "pytest", "-n", "2", "-q"], 1)
    rows.append(record("the test suite, install and lint excluded", suite / 60, "minutes", 8))
    with tempfile.TemporaryDirectory() as folder:
        demo = seconds([str(BIN / "tessella"), "demo", "--out", folder], 1)
    rows.append(record("the demo, all chapters, install excluded", demo / 60, "minutes", 8))
    (ROOT / "docs/results/commands.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
