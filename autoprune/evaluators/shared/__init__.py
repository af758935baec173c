"""Weights that many networks share, trained once."""
