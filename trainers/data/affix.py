"""A prompt with words around it."""

from trainers.data.messages import Messages


def affixed(prompt: str | Messages, affix: str) -> str | Messages:
    """The prompt, or its last turn, in the place of {prompt}."""
    if isinstance(prompt, str):
        return affix.replace("{prompt}", prompt)
    *before, last = prompt
    return [*before, {**last, "content": affix.replace("{prompt}", last["content"])}]
