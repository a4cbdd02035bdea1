"""One file in, its slices out; the reader is chosen by content."""
