"""Who is behind a pseudonym: the vault, and what must not leave it."""
