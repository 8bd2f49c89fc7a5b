"""Recommenders, language models and encoders: everything that turns inputs into scores."""
