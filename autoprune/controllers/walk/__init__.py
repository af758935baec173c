"""The space one group after the other: the walk of agents, and as a Gymnasium environment."""
