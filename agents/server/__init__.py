"""A chat over HTTP: an OpenAI-compatible API, the recommender's own API, and a page for people.

    request ─ gate: host, origin, token, rate, size ─ lane: worker threads, bounded ─ service

`service` says what is served; `app` puts the parts together; `serving` runs them.
"""
