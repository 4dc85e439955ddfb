"""Whole pages: a run, a comparison, a sweep, a diff; and figures as files."""
