"""Which images of prepared datasets show the same: duplicates, twins, neighbours."""
