"""The embedded image-text data set: emoji by five artists, in 25 languages."""
