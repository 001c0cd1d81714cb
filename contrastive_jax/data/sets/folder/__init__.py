"""A folder of images with captions."""
