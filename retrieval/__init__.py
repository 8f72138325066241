"""Text in, passages out: embed, store, index, search. Knows nothing of chat."""
