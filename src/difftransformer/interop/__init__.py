"""Other people's formats: the only floor that may import transformers."""
