"""Methods x metrics where the truth is planted: which metric to trust, which method to pick."""
