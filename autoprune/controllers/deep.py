"""AMC's rule of thumb "deep"."""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.controllers.rules import Fixed, deep


@dataclass
class Deep(Fixed):
    """Prunes the choices near the output hardest."""

    rule = staticmethod(deep)
