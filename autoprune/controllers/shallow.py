"""AMC's rule of thumb "shallow"."""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.controllers.rules import Rule, falling


@dataclass
class Shallow(Rule):
    """Prunes the choices near the input hardest."""

    shape = staticmethod(falling)
