"""Tests, in the rooms of what they test."""

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
