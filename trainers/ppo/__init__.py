"""Reinforcement learning from scores: PPO with a critic, and RLOO and GRPO without one."""
