"""AMC's rule of thumb "uniform"."""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.controllers.rules import Fixed, uniform


@dataclass
class Uniform(Fixed):
    """The same sparsity everywhere."""

    rule = staticmethod(uniform)
