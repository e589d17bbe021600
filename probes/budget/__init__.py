"""What measuring may cost: its clock, and who may measure when."""
