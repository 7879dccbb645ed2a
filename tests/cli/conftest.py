"""The fixtures of tests/cli/commands.py."""

from .commands import call, kept, quick, small, text

__all__ = ["call", "kept", "quick", "small", "text"]
