"""Contracts that a plugin must pass, and a network in closed form to try it on. Needs pytest, nothing of ours."""
