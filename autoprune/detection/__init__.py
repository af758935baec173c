"""Detectors: boxes, images with boxes, what the cells of a one-stage detector mean, its loss, and average precision."""
