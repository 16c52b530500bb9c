"""Other people's attribution methods, for comparison."""
