"""The quick start as a program: daemon, manifest, a mixed stream of requests, what was measured.

Run it with `make demo`. It needs no internet: the base model lies inside a Python package.
"""

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

import bertd

HERE = Path(__file__).parent
BERTD = Path(sys.executable).with_name("bertd")
START_TIMEOUT_S = 60

TEXTS = {
    "sst2": ["This movie sucks ;(", "Loved it!!!", "A charming and often affecting journey."],
    "trec": ["Who wrote Hamlet?", "How far is the moon?", "What does NASA stand for?"],
    "snips": ["play some jazz", "will it rain in Oslo tomorrow?", "book a table for two at noon"],
    "cola": ["The book was written by John.", "Book the John by written was."],
}
METRICS = (
    "bertd_requests_total",
    "bertd_batch_rows_sum",
    "bertd_batch_rows_count",
    "bertd_batch_adapters_sum",
    "bertd_adapter_cache_adapters",
    "bertd_adapter_cache_bytes",
    "bertd_revision_info",
)
console = Console(width=110)


def main() -> None:
    """Everything, in the order of a first evening with bertd."""
    with tempfile.TemporaryDirectory(prefix="bertd-demo-") as folder:
        os.environ["BERTD_SERVER"] = f"{folder}/admin.sock"
        with daemon(Path(folder)) as metrics_url:
            run("apply", str(HERE / "manifest.yaml"), "--wait")
            run("get", "adapters")
            run("predict", "quickstart/trec", "Who wrote Hamlet?", "-o", "json")
            asyncio.run(mixed_stream())
            show_metrics(metrics_url)
    console.print("\nThe daemon has stopped. It was one process with the weights, and one without.")


@contextmanager
def daemon(folder: Path) -> Iterator[str]:
    """A daemon with its state in `folder`; yields the address of its metrics."""
    log = folder / "log"
    command = [str(BERTD), "serve", "--state-dir", str(folder / "state"), "--listen"]
    command += ["127.0.0.1:0", "--admin", os.environ["BERTD_SERVER"], "--metrics", "127.0.0.1:0"]
    console.print("[bold]$ bertd serve &[/]")
    with log.open("w") as output:
        process = subprocess.Popen(command, stderr=output)
        try:
            yield wait_for(r"http://[0-9.:]+/metrics", log, process)
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(timeout=START_TIMEOUT_S)
    if code != 0:
        raise SystemExit(f"the daemon ended with {code}")


def wait_for(pattern: str, log: Path, process: subprocess.Popen[bytes]) -> str:
    """The first match in the daemon's log; the log itself if it ends or takes too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(pattern, log.read_text()):
            return found[0]
        time.sleep(0.05)
    raise SystemExit(f"the daemon did not start:\n{log.read_text()}")


def run(*arguments: str) -> None:
    """Shows a command and its output, as one would type it."""
    shown = " ".join(f'"{a}"' if " " in a else a for a in arguments)
    console.print(f"\n[bold]$ bertd {shown.replace(str(HERE), 'examples/quickstart')}[/]")
    sys.stdout.flush()
    subprocess.run([str(BERTD), *arguments], check=True)


async def mixed_stream() -> None:
    """Sends every text to its adapter, all at once: batches mix them freely."""
    questions = [(adapter, text) for adapter, texts in TEXTS.items() for text in texts]
    async with bertd.AsyncClient() as client:

        async def ask(adapter: str, text: str) -> tuple[str, str, float, float]:
            began = time.perf_counter()
            (answer,) = await client.classify([text], model="quickstart", adapter=adapter)
            seconds = time.perf_counter() - began
            return text, answer.label or "(none)", answer.score, seconds

        await asyncio.gather(*(ask(*question) for question in questions))  # warm connections
        answers = await asyncio.gather(*(ask(*question) for question in questions))
    table = Table("text", "adapter", "label", "probability", "latency", title="One mixed stream")
    for (adapter, _), (text, label, score, seconds) in zip(questions, answers, strict=True):
        table.add_row(text, adapter, label, f"{score:.3f}", f"{seconds * 1000:.1f} ms")
    console.print()
    console.print(table)


def show_metrics(url: str) -> None:
    """The lines of the Prometheus page that tell the story, and what they add up to."""
    with urllib.request.urlopen(url) as page:
        lines = page.read().decode().splitlines()
    console.print(f"\n[bold]$ curl -s {url} | grep bertd_[/]")
    values = {}
    for line in lines:
        if line.startswith(METRICS):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
            name, _, value = line.rpartition(" ")
            values[name.partition("{")[0]] = float(value)
    rows = values["bertd_batch_rows_sum"] / values["bertd_batch_rows_count"]
    adapters = values["bertd_batch_adapters_sum"] / values["bertd_batch_rows_count"]
    console.print(
        f"\nA batch held {rows:.1f} rows of {adapters:.1f} different adapters on average."
    )
    if adapters <= 1:
        raise SystemExit("no batch held several adapters")


if __name__ == "__main__":
    main()
