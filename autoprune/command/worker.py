"""Whether workers can evaluate for a search: this machine, or those of a cluster, each after building the study."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from autoprune.command.shared import print_json, print_table, study_of
from autoprune.command.terminal import show as print
from autoprune.runs import lifecycle, workers
from autoprune.runs.study import Study

Facts = Mapping[str, Any]
HEAD = ("worker", "host", "threads", "device", "python", "torch", "numpy")


def command(asked: argparse.Namespace) -> None:
    """Show what each worker is, or the first that cannot evaluate."""
    found = facts(study_of(asked))
    if asked.json:
        print_json({"workers": found})
        return
    print_table(HEAD, rows(found))
    print("\n".join(["", *remarks(found)]))


def facts(study: Study) -> list[dict[str, Any]]:
    """What each worker is: of the cluster that the config names, or else this process. Raises ConfigError."""
    with workers.hired(study.config.workers) as crew:
        return workers.inspected(study) if crew is None else crew.inspected(study, lifecycle.facts_of(study))


def rows(found: Sequence[Facts]) -> list[list[object]]:
    """A row of a table for each of `facts`, as `HEAD` says."""
    return [[one.get(word, "") for word in HEAD] for one in found]


def remarks(found: Sequence[Facts]) -> Iterator[str]:
    """What to know of them, for people."""
    count = f"{len(found)} workers" if len(found) > 1 else "This worker"
    yield f"{count} can evaluate for this search."
    if daemonic := [str(one["worker"]) for one in found if one.get("daemonic")]:
        yield (
            f"{', '.join(daemonic)}: a loader of data with processes of its own would fail there; start workers with "
            "DASK_DISTRIBUTED__WORKER__DAEMON=false if the task has one."
        )
