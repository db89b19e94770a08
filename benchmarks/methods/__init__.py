"""Methods x metrics where the truth is planted: which metric can be trusted, which method picked."""
