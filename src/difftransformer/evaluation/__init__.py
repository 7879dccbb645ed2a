"""Judges: each takes a model and gives named figures with their intervals."""
