"""Hardware cost models: what a policy costs, and what a network really costs."""
