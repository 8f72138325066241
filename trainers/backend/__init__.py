"""Other systems that train by our recipes, on many GPUs."""
