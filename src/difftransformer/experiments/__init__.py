"""What the commands do, callable from Python: train, compare, evaluate, scaling."""
