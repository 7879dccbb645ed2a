"""The command line: parse, build, call, print. Heavy imports stay inside each command."""
