"""Chapter 4, last sections: the complexity of what is learned, beside the generalization gap."""
