"""Turn tables of users, items and interactions into recommendations with language models."""

__all__ = ["__version__"]
__version__ = "0.1.0"
