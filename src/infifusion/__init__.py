"""InfiFusion: fuse several LLMs of any architecture and tokenizer into one."""

__version__ = "0.1.0.dev0"
