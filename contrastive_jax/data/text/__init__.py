"""Tokenizers and changes of texts."""
