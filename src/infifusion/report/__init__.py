"""The report of a run: JSON in, one HTML page, one summary and model cards out. No torch."""
