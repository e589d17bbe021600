"""GANs of stacked digits (Table 5.1, Fig. 5.5)."""
