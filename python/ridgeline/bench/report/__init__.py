"""Results: their JSON, a comparison of two, tables and a page."""
