"""The life of managed policies and of rules: drafted, submitted, approved by another key, in force, retired."""
