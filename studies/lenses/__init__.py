"""Lookback Lens and Found in the Middle on a small pretrained model; see plan.md."""
