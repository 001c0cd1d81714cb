"""Data: sources, pipeline, tokenizer, augmentation, folders, emoji."""
