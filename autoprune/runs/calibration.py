"""How fast this machine is in which precision: timed once for a network's shapes, kept for its user, read ever after.

The same seed on the same machine thereby gives the same scores, whatever else the machine does at the time. A file
belongs to one processor, number of threads, version of torch and list of shapes; it is removed, or measured anew with
`autoprune check --calibrate`, where it was made on a machine that was disturbed.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.engine.precision import Precision, Way
from autoprune.engine.speed import speedup
from autoprune.errors import RunError
from autoprune.files import cache, disk
from autoprune.inputs import Inputs, device_of, shapes
from autoprune.targets.inputs import processor

_FOLDER, _MADE = "precision", 1  # the second is raised where what is timed changes


@dataclass
class Calibration:
    """What was timed of one network on this machine; called as `engine.precision.Gain`.

    Attributes:
        model: the dense network, of which only the shapes count.
        anew: whether what is kept is measured again.
        notes: what was not as it should be, a sentence each.
    """

    model: nn.Module
    anew: bool = False
    notes: list[str] = field(default_factory=list, init=False)

    def __call__(self, old: Way, new: Way, batch: Inputs) -> float:
        """How many times as fast `new` takes `batch` as `old`, as it was timed the first time."""
        facts = {**self._facts(new.precision, batch), "against": old.precision}
        path = cache.folder() / _FOLDER / _slug(processor()) / f"{new.precision}-{cache.named(facts)}.json"
        if not self.anew and (kept := self._kept(path, facts)):
            return kept
        with contextlib.ExitStack() as opened:
            try:
                opened.enter_context(cache.alone(path.with_name("lock")))  # two at once would disturb each other
            except OSError as wrong:
                return self._unkept(path, wrong, speedup(old, new, batch))
            if not self.anew and (kept := self._kept(path, facts, again=True)):
                return kept
            found = speedup(old, new, batch)
            try:
                disk.write_json(path, {"facts": facts, "times as fast": found})
            except OSError as wrong:
                return self._unkept(path, wrong, found)
        return found

    def _kept(self, path: Path, facts: Mapping[str, Any], again: bool = False) -> float:
        """What `path` holds; 0 where it holds nothing that can be used, which is noted the first time."""
        try:
            held = disk.read_json(path)
        except OSError:
            return 0.0
        except RunError:
            held = {}
        value = held.get("times as fast")
        if held.get("facts") == facts and isinstance(value, float) and 0 < value < math.inf:
            return value
        if not again:
            self.notes.append(f"{path} is damaged; how fast this machine is was measured anew.")
        return 0.0

    def _unkept(self, path: Path, wrong: OSError, found: float) -> float:
        self.notes.append(
            f"How fast this machine is could not be kept ({path}: {wrong.strerror or wrong}), so that another run may "
            "choose another precision; set AUTOPRUNE_CACHE to a folder of yours, or write search.precision."
        )
        return found

    def _facts(self, precision: Precision, batch: Inputs) -> dict[str, Any]:
        """What a timing depends on."""
        device = device_of(self.model)
        layers = [type(module).__name__ for module in self.model.modules()]
        sizes = [list(tensor.shape) for tensor in (*self.model.parameters(), *self.model.buffers())]
        return {
            "made": _MADE,
            "precision": precision,
            "device": processor() if device.type == "cpu" else torch.cuda.get_device_name(device),
            "threads": torch.get_num_threads(),
            "torch": importlib.metadata.version("torch"),
            "network": cache.named({"layers": layers, "sizes": sizes}),
            "batch": shapes(batch),
        }


def _slug(name: str) -> str:
    """`name` as a folder may be called."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-") or "processor"
