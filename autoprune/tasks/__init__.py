"""The built-in tasks: a data set, a trained network and a metric each."""
