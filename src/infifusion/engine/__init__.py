"""Models that run in a vLLM server: asked over HTTP, token ids in, log-probabilities out."""
