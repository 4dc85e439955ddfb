"""Merging weights: methods, the blocks they work on, the engine, checkpoints."""
