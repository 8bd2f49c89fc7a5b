"""Shipped test material: the toy world whose right answers are known."""
