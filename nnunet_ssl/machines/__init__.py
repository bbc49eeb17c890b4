"""Cases shared out over processes and machines."""
