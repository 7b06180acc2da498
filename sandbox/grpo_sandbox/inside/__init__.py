"""What runs on the far side: the zygote, and the jobs it forks.

Nothing here may hold a secret: every job inherits this memory.
"""
