"""The rule "smart-ratio" (Su et al. 2020, https://arxiv.org/abs/2009.11094)."""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.controllers.rules import Fixed, smart_ratio


@dataclass
class SmartRatio(Fixed):
    """Keeps ever less with depth."""

    rule = staticmethod(smart_ratio)
