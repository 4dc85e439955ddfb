"""From a merge file to a merged folder: models, plan, tensors, vocabulary, writing."""
