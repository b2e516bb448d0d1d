"""A source led by a table: the MAP that explains it, its rows, its files, and the cohort made of them."""
