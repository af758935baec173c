"""The environment for agents of your own: importing this makes its name known to Gymnasium."""

from __future__ import annotations

from autoprune.controllers.walk.environment import NAME, Layerwise

__all__ = ["NAME", "Layerwise"]
