"""What happens to a prompt: core types, the stages, the pipeline and the one layout."""
