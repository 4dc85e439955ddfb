"""The run folder on disk: stages signed and resumed, files whole or not there, locks."""
