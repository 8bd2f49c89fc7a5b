"""Tables, splits and histories: what happened, and strictly before when."""
