"""Shared by all rooms: nothing is fetched, and models are unpacked once for the whole suite."""

import os

from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["LANGSMITH_TRACING"] = "false"
# Two shared cores make single examples slow now and then; a deadline would only add noise.
settings.register_profile("tastemaker", deadline=None)
settings.load_profile("tastemaker")
