"""Chapter 4: tangent features align with the labels while they are learned."""
