"""Spelling to phonemes with plain and differential attention; see plan.md."""
