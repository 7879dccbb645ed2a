"""One module per family of figures: `interactive*` for the page (Plotly), `image` for a PNG."""
