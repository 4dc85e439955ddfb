"""Where the answer stands in an output, and whether two answers are the same."""
