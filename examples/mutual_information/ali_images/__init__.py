"""Adversarially learned inference of images, with and without mutual information (Table 5.2)."""
