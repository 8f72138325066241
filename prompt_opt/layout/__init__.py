"""Where each piece of advice goes in a prompt."""
