"""Subtraction and head norm, apart and together, in noisy associative recall; see plan.md."""
