"""What every layer may use: batches, digests, errors, the run directory."""
