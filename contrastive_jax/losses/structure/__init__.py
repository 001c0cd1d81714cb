"""Losses on the structure of two modalities' features, after Jiang et al."""
