"""Examples in: data sets read, fields mapped, conversations rendered, overlap counted."""
