"""Files, whole or not at all: policies and exported networks."""
