"""Controllers: they propose policies and learn from what became of them."""
