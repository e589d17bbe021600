"""Easy and difficult examples in one training set (Figs. 4.4 and B.7)."""
