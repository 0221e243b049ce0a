"""What the network sees in an image, and what it is made of."""
