"""Classifiers on labelled text: rows, heads, training that keeps its dynamics and checkpoints."""
