"""The information bottleneck (Table 5.3)."""
