"""Training the pivot: transformers.Trainer with our loss."""
