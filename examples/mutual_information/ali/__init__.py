"""Adversarially learned inference on the 25 Gaussians, with and without mutual information (Fig. 5.6, C.1)."""
