"""The example that is shipped runs, and shows what it promises."""

import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "batcher" / "embed.py"


def test_the_example_batches_and_changes_no_answer() -> None:
    """256 texts need far fewer calls than texts, and each has the vector that it has alone (D7)."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)], capture_output=True, text=True, check=True, timeout=50
    )
    calls = [int(number) for number in re.findall(r"(\d+) calls", done.stdout)]
    assert calls[0] == 256
    assert calls[1] <= 64
    difference = re.search(r"difference +(\S+)", done.stdout)
    assert difference is not None
    assert float(difference[1]) < 1e-4
