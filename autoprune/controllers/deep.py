"""AMC's rule of thumb "deep"."""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.controllers.rules import Rule, rising


@dataclass
class Deep(Rule):
    """Prunes the choices near the output hardest."""

    shape = staticmethod(rising)
