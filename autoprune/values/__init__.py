"""The world as plain numbers: spaces and policies, costs as arithmetic, budgets, trials, dice. No torch."""
