"""Networks by where they come from."""
