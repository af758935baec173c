"""The space one choice after the other: the walk of agents, and as a Gymnasium environment."""
