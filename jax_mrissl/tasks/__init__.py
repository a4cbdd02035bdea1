"""Pretraining and finetuning, from a config to a run directory."""
