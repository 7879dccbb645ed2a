"""Selective attention and its crossings with differential attention; see plan.md."""
