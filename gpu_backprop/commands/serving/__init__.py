"""A trained network over HTTP: a page to ask it, and an address for programs."""
