"""From labelled images to a bundle, with the figures that say how good it is."""
