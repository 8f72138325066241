"""A small engine of our own: a GGUF model of the Llama family on ONNX Runtime, behind OpenAI's API."""
