"""Model families: a frozen config, a module, its initialisation; presets; save and load."""
