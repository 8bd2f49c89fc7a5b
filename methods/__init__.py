"""The published methods: where text, knowledge, vectors and recommenders meet."""
