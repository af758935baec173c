"""Where pruned networks are timed: a runtime on a device, with its batch, threads and precision."""
