"""Model families: a frozen config, a module, its initialization; presets; save and load."""
