"""Raw folders to prepared datasets, and prepared datasets to batches."""
