"""Building blocks for plugins: geometry, networks, pictures and linear answer decoders."""
