"""Who somebody is, and what of it may leave: keys and pseudonyms, text, headers. Nothing in this room imports torch."""
