"""Chapter 5: mutual information, estimated, maximized and minimized by neural networks."""
