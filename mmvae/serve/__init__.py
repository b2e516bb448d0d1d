"""Pages for people: search results and single cases as self-contained HTML."""
