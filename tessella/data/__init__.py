"""Data: readers, batches and collation; what reaches a model and what is set aside."""
