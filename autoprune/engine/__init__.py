"""Pruned networks, run fast: chains of operators at once, eight bits, precision, memory."""
