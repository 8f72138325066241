"""The stage `urial`: in-context alignment by a profile's constant examples (Lin et al., arXiv 2312.01552)."""

from __future__ import annotations

from prompt_opt.core import Advice, Chat, Context, Policy, Supplies


class Urial:
    """Contributes the profile's instruction and exemplars; never slow, never fails."""

    name, instant = "urial", True

    def __init__(self, policy: Policy, supplies: Supplies | None = None) -> None:
        profile = policy.profile
        count = len(profile.exemplars)
        self._advice = Advice(profile.instruction, profile.exemplars, note=f"{count}" if count else "no exemplars")

    async def constant(self, ctx: Context) -> Advice | None:
        """All of it."""
        return self._advice

    async def __call__(self, chat: Chat, ctx: Context) -> Advice:
        """The profile's instruction and exemplars."""
        return self._advice
