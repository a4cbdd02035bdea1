"""Which pictures show the same: numpy arrays in, pairs of rows out."""
