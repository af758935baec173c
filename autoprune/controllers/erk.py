"""The rule "Erdős-Rényi-kernel" (Evci et al. 2020, https://arxiv.org/abs/1911.11134)."""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.controllers.rules import Fixed, erk


@dataclass
class Erk(Fixed):
    """Keeps less of what is large, as Erdős-Rényi-kernel says."""

    rule = staticmethod(erk)
