"""A run from its first trial to its last file: study, journal, loop, comparison, reuse."""
