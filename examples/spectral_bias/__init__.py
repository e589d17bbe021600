"""Chapter 3: networks learn low frequencies first, and keep them when their parameters are perturbed."""
