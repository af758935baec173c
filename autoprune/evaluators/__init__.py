"""Evaluators: make the pruned network of a policy, let it recover, and say how good it is."""
