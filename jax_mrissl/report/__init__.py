"""Run directories and arrays in, pictures and text out."""
