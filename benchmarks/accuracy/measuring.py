"""Every task in two precisions, base by base."""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.accuracy import tasks
from bertd.bitfit import agreement
from bertd.checkpoint import adapter_file
from bertd.engine import evaluation, session

EMBEDDED_TEXTS = 1000  # of a base


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """JSON records: one for each task, one for each base."""

    tasks: list[dict[str, Any]]
    bases: list[dict[str, Any]]


def measure(found: Sequence[tasks.Task], precision: str, against: str) -> Measured:
    """Compares `precision` with `against` on every task, opening each base once."""
    measured = Measured(tasks=[], bases=[])
    for source, group in itertools.groupby(found, key=lambda task: task.source):
        before = session.Session.open(source, precision=against)
        after = session.Session.open(source, precision=precision)
        of_base = list(group)
        for task in of_base:
            record = compare(task, before, after)
            print(_line(record), flush=True)
            measured.tasks.append(record)
        texts = [text for task in of_base for text in task.table.texts]
        shown = {"base": of_base[0].base, "precision": after.base.precision}
        measured.bases.append(shown | embeddings(texts, before, after))
    return measured


def compare(task: tasks.Task, before: session.Session, after: session.Session) -> dict[str, Any]:
    """One task's record."""
    if task.adapter is None:
        output = evaluation.of_base(before.base.description)
        engines = [evaluation.Engine(opened) for opened in (before, after)]
    else:
        output = evaluation.of_adapter(adapter_file.read_info(task.adapter))
        engines = [
            evaluation.Engine(opened, opened.load_adapter(task.adapter))
            for opened in (before, after)
        ]
    found = evaluation.compare(output, task.table, *engines)
    return {
        "task": task.name,
        "base": task.base,
        "precision": found.after.precision,
        "rows": found.rows,
        "sha256": task.table.digest,
        "metric": task.metric,
        "before": dataclasses.asdict(found.before),
        "after": dataclasses.asdict(found.after),
        "agreement": shares(found.agreement),
    }


def shares(found: agreement.Agreement) -> dict[str, Any]:
    """Counts, and what follows from them."""
    return dataclasses.asdict(found) | {
        "share": found.share,
        "sure_share": found.sure_share,
        "mean_drift": found.mean_drift,
    }


def embeddings(
    texts: Sequence[Any], before: session.Session, after: session.Session
) -> dict[str, Any]:
    """How far the base's own sentence vectors move, over texts from all of its tasks."""
    step = max(1, len(texts) // EMBEDDED_TEXTS)
    some = list(texts)[::step][:EMBEDDED_TEXTS]
    one_ND, other_ND = (opened.embed(some) for opened in (before, after))
    lengths_N = np.linalg.norm(one_ND, axis=1) * np.linalg.norm(other_ND, axis=1)
    cosines_N = (one_ND * other_ND).sum(axis=1) / np.maximum(lengths_N, 1e-12)
    drift_ND = np.abs(other_ND - one_ND)
    return {
        "texts": len(some),
        "mean_cosine": float(cosines_N.mean()),
        "min_cosine": float(cosines_N.min()),
        "mean_drift": float(drift_ND.mean()),
        "max_drift": float(drift_ND.max()),
    }


def _line(record: dict[str, Any]) -> str:
    alike = record["agreement"]
    return f"{record['task']} {record['precision']}: {alike['share']:.4%} of {alike['decisions']}"
