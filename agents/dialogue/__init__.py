"""A conversation about what to choose next, grounded in the catalogue.

    message ─ reading (words) ─ understanding (model, constrained) ─► Wish
    State + Wish ─► State ─ planning: filter, search, rank ─► cards
    cards ─ wording (model, guarded) ─► answer

`wish` has the nouns; `agents.chat` runs a turn.
"""
