"""The commands: each parses, calls one function and prints the next command to type. Heavy imports stay inside, so `--help` is instant."""
