"""OpenAI's text completions, as engines speak them: what the base render sends, and how the answer is read."""

path = "/v1/completions"
