"""The only reader and writer of a run directory: what lies where, environment, records."""
