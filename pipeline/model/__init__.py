"""The network and its answers: from a bundle to predictions with probabilities."""
