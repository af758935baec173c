"""AMC's rule of thumb "uniform"."""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.controllers.rules import Rule, flat


@dataclass
class Uniform(Rule):
    """The same sparsity everywhere."""

    shape = staticmethod(flat)
