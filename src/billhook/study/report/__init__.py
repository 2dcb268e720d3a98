"""A study's results for a person: tables, Markdown, one HTML page."""
