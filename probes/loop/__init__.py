"""What the user's loop shows: its steps, its first batch, its loss."""
