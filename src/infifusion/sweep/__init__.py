"""Sweeps: one recipe with lists in place of values, run and compared."""
