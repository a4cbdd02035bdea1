"""Content-addressed stages: what is done is not done again."""
