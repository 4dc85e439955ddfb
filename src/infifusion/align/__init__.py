"""Boundary alignment and vocabulary map: carrying one tokenizer's beliefs to another's."""
