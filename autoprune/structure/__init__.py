"""What of a network can be cut, proven, and cutting it."""
