"""Scores of classification rows by training dynamics and gradients: one small file per score."""
