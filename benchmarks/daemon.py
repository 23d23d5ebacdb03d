"""A daemon of one's own, as users start it, and what it occupies."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BERTD = Path(sys.executable).with_name("bertd")
STOP_S = 60.0


@contextmanager
def running(folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon whose state, log and sockets lie in `folder`; verbs find it by `BERTD_SERVER`."""
    folder.chmod(0o700)
    os.environ["BERTD_SERVER"] = str(folder / "admin.sock")
    with (folder / "log").open("w") as log:
        command = [str(BERTD), "serve", "--state-dir", str(folder / "state")]
        command += ["--listen", "127.0.0.1:0", "--metrics", "", *options]
        front = subprocess.Popen(command, stderr=log)
    try:
        while not re.search("listening", (folder / "log").read_text()):
            time.sleep(0.1)
        yield front
    finally:
        front.send_signal(signal.SIGTERM)
        front.wait(STOP_S)


def apply(manifest: Path) -> float:
    """Applies a manifest and waits until everything is Ready; returns the seconds it took."""
    began_s = time.perf_counter()
    command = [str(BERTD), "apply", str(manifest), "--wait", "--timeout", "30m"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began_s


def vital_signs(pid: int) -> dict[str, int]:
    """Resident memory, threads and descriptors of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = dict(re.findall(r"^(VmRSS|Threads):\s+(\d+)", status, re.MULTILINE))
    return {
        "resident KiB": int(found["VmRSS"]),
        "threads": int(found["Threads"]),
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
    }
