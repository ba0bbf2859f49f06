"""What the modules beside it share: how weights and models go to other libraries and come from there."""
