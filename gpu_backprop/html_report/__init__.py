"""A page of HTML about a training."""
