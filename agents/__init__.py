"""Chat models, reasoning chains and the store of what they wrote."""
