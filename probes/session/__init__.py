"""One attached run: from a step that is due to the rows that the sinks write."""
