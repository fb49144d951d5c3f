"""From the arguments of a command to a checked configuration, and what to write instead of those that mean nothing."""
