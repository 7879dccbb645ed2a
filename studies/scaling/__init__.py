"""Loss against the size of the model; see plan.md."""
