"""The loop that makes the world match a commit: plan, run what can run, sign, record, and look again."""
