"""Black-box prompt optimization (arXiv:2311.04155): a critic's rewrites, and a rewriter trained on them."""
