"""What is done to cohort and vault as a whole."""
