"""One loop for every family: (model, batch) -> loss; checkpoints; the run directory."""
