"""What a worker does: build the study that it is sent as text, once, and evaluate policies for it.

It is sent texts and answers with texts: the config and what was found when the run began, and then a policy at a time.
Addresses of the user's own code are followed only where their files are, to the last bit, those that the search itself
was allowed to run. Nothing heavy is imported before a study is built: Dask's scheduler imports this file, too.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distributed import WorkerPlugin, get_worker

from autoprune.errors import AutopruneError, ConfigError, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoprune.runs.flight import Attempt
    from autoprune.runs.study import Study

PATIENCE = 60  # seconds
ALIKE = ("autoprune", "torch", "numpy")  # whose versions decide what a score is


def versions() -> dict[str, str]:
    """Of what decides scores, here."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in ALIKE}}


def everybody(client: Any) -> dict[str, dict[str, Any]]:
    """What a client's scheduler says of every worker, by address; `client.scheduler_info` may say it of five alone."""
    found: dict[str, dict[str, Any]] = client.sync(client.scheduler.identity, n_workers=-1)["workers"]
    return found


class Evaluates(WorkerPlugin):  # type: ignore[misc]  # Dask has no types
    """Holds a study, as text and, once somebody asks for it, built."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self._text = name, text
        self._built: Study | None = None
        self._attempts: Sequence[Attempt] = ()

    def setup(self, worker: object) -> None:
        """Nothing is built yet: a worker that is long silent is taken for dead."""
        self._lock = threading.Lock()

    def study(self) -> Study:
        """The study, built when it is first asked for. Raises AutopruneError where it cannot be."""
        with self._lock:
            if self._built is None:
                self._built = _built(json.loads(self._text))
            return self._built

    def attempts(self) -> Sequence[Attempt]:
        """How a policy is attempted at each rung."""
        from autoprune.runs import rungs

        if not self._attempts:
            steps = rungs.known(json.loads(self._text)["facts"])
            self._attempts = rungs.attempts(self.study(), steps)
        return self._attempts


def ready(name: str, folder: str, hashes: str) -> str:
    """Build the study called `name` and take up weights; returns as JSON what this worker is.

    Under "error" it says why it cannot work, if so. `hashes` is a JSON object, the sha256 of each file of trained
    weights in `folder`.
    """
    facts: dict[str, Any] = {"pid": os.getpid(), "host": platform.node(), **versions(), "daemonic": _daemonic()}
    try:
        study = _plugin(name).study()
        _take_up(study, Path(folder), json.loads(hashes))
    except AutopruneError as wrong:
        return json.dumps({**facts, "error": one_line(wrong)})
    import torch

    return json.dumps({**facts, "threads": torch.get_num_threads(), "device": study.config.search.device})


def attempted(name: str, text: str) -> str:
    """The line of a journal that tells the trial of a policy; `text` is a JSON object of its number and levels."""
    from autoprune.runs import lines
    from autoprune.runs.flight import AtRung
    from autoprune.values.space import Policy

    asked = json.loads(text)
    attempt = AtRung(_plugin(name).attempts()[asked["rung"]], asked["rung"])
    return lines.line(attempt(int(asked["number"]), Policy.of(asked["levels"]))).decode()


def _plugin(name: str) -> Evaluates:
    """The study called `name`, which a worker that has just begun may be about to get."""
    worker, until = get_worker(), time.monotonic() + PATIENCE
    while name not in worker.plugins and time.monotonic() < until:
        time.sleep(0.05)
    found = worker.plugins[name]
    assert isinstance(found, Evaluates)
    return found


def _built(sent: dict[str, Any]) -> Study:
    here = versions()
    if unlike := [name for name in ALIKE if sent["versions"][name] != here[name]]:
        said = ", ".join(f"{name} {here[name]} where the search has {sent['versions'][name]}" for name in unlike)
        raise ConfigError(f"it has {said}; the same versions are needed")
    import torch

    from autoprune import config
    from autoprune.runs import study
    from autoprune.trust import named

    torch.set_num_threads(sent["threads"])
    asked = config.parse(sent["config"], "the search's config")
    for code in named(asked):
        if (there := sent["allowed"].get(code.address)) != (digest := code.digest()):
            what = "cannot be read here" if not digest else "is another file here than the search's"
            if there is None:
                what = "was not allowed by the search"
            raise ConfigError(f"the {code.kind} {code.address!r} {what}; the same file in the same place is needed")
    return study.build(asked, found=sent["facts"], measures=False)


def _take_up(study: Study, folder: Path, hashes: dict[str, str]) -> None:
    from autoprune.protocols import Trains

    for name, digest in hashes.items():
        if not (folder / name).is_file() or sha256(folder / name) != digest:
            raise ConfigError(
                f"{folder / name} is not the file of trained weights that the search has; share its folder"
            )
    if isinstance(study.evaluator, Trains) and hashes:
        study.evaluator.take_up(folder)


def sha256(file: Path) -> str:
    """Of what a file holds."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _daemonic() -> bool:
    """Whether this process may have no children, as loaders of data are."""
    import multiprocessing

    return bool(multiprocessing.current_process().daemon)
