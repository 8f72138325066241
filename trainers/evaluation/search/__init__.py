"""`trimtab profile search`: examples and an instruction chosen for a model by what its likelihoods say."""
