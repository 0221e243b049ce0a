"""Images: where they are and how they become pixels. Knows nothing of models or runs."""
