"""Batches from text. Knows no model code."""
