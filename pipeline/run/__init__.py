"""One run over a collection of images: plan, classify, publish, report."""
