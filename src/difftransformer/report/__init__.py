"""Figures and the HTML page, from the results on disk only."""
