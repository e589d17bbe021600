"""A VGG19 on photographs, with and without label noise (Figs. 4.2, 4.3 and B.8)."""
