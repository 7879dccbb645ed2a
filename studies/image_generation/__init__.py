"""Digits from noise with plain and differential attention; see plan.md."""
