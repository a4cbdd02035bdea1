"""The step, its compilations, and the loop around it."""
