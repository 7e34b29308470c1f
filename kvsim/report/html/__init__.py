"""A report that can be sent on: one HTML file with its figures, tables and provenance, which needs no network."""
