"""The process we run in: rank, device, memory, log and progress, the libraries' versions."""

VERSION = "0.1.0"
