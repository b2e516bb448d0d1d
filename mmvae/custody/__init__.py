"""Operations on a whole cohort with its vault, or on a whole index: a new key, and migration from earlier releases."""
