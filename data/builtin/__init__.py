"""Data sets that come with packages of the index: one file each."""
