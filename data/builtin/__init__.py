"""Built-in data sets: one file each, from a package of the index or from published files."""
