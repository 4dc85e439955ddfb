"""Where generated code runs: two processes behind walls, judged by a nonce."""
