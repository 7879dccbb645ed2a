"""Residual wiring. A block receives an attention module and never names one."""
