"""Latency: timings on a target, and the model that is fitted to them."""
