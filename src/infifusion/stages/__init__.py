"""The stages of a run: the only place where names become functions."""
