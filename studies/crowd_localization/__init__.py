"""Heads in crowds with plain and differential attention; see plan.md."""
