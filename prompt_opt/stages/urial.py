"""The stage `urial`: in-context alignment by a profile's constant examples (Lin et al., arXiv 2312.01552)."""

from __future__ import annotations

from prompt_opt.core import Advice, Chat, Context, Policy, Supplies
from prompt_opt.layout.lookalike import prepare


class Urial:
    """Contributes the profile's instruction and exemplars; never slow, never fails."""

    name, instant, required = "urial", True, False

    def __init__(self, policy: Policy, supplies: Supplies | None = None) -> None:
        profile = policy.profile
        count = len(profile.exemplars)
        # Exemplars stand before a conversation; in the middle of one they would be taken for turns of its own.
        self._continued = Advice(profile.instruction, note="continued: instruction only")
        if policy.render == "base":
            for marker in (profile.user_marker, profile.assistant_marker):
                prepare(marker)
        self._advice = Advice(profile.instruction, profile.exemplars, note=f"{count}" if count else "no exemplars")

    async def constant(self, ctx: Context) -> Advice | None:
        """All of it."""
        return self._advice

    async def __call__(self, chat: Chat, ctx: Context) -> Advice:
        """The profile's instruction and exemplars; the instruction alone where the engine holds earlier turns."""
        return self._continued if chat.continued else self._advice
