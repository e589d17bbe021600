"""GANs of the spiral and the 25 Gaussians, with and without mutual information (Fig. 5.3, 5.4)."""
