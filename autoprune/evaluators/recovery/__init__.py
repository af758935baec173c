"""What several evaluators recover and score with."""
