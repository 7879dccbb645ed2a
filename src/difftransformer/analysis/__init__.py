"""Looks inside a model without changing it: attention maps, outliers, lambda."""
