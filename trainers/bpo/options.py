"""The keys of a `bpo` recipe."""

from dataclasses import dataclass

from trainers.ask.engine import Engine
from trainers.run.keys import Common


@dataclass(frozen=True, kw_only=True)
class Recipe(Common):
    """The paper's settings where it gives them; trainers/recipes/bpo.yaml explains each key."""

    critic_url: str
    critic_model: str
    critic_key_env: str = ""
    critic_temperature: float = 0.9
    critic_max_tokens: int = 2048
    critic_concurrency: int = 8
    critic_requests_per_minute: float = 0.0
    critic_retries: int = 5
    critic_timeout: float = 120.0
    gate: bool = True
    keep_unchanged: bool = True
    judged_prompts: int = 0
    judged_samples: int = 4
    judged_temperature: float = 0.9
    judged_margin: float = 1.0
    dpo_beta: float = 0.1
    dpo_learning_rate: float = 1e-6
    dpo_epochs: float = 1.0
    max_new_tokens: int = 512
    report_prompts: int = 200
    epochs: float = 3.0
    batch: int = 32
    learning_rate: float = 2e-5
    max_length: int = 1024

    @property
    def engine(self) -> Engine:
        """The critic, as it is asked."""
        return Engine(
            self.critic_url, self.critic_model, self.critic_key_env, self.critic_temperature, self.critic_max_tokens,
            self.critic_concurrency, self.critic_requests_per_minute, self.critic_retries, self.critic_timeout,
        )  # fmt: skip
