"""What a run would do and cost, and what speaks against it, before anything runs."""
