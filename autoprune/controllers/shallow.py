"""AMC's rule of thumb "shallow"."""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.controllers.rules import Fixed, shallow


@dataclass
class Shallow(Fixed):
    """Prunes the choices near the input hardest."""

    rule = staticmethod(shallow)
