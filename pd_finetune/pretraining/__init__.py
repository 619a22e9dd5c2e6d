"""Training a small target from scratch, and what its cross-entropy is measured against."""
