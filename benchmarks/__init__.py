"""``make bench``: measures the gateway beside common stacks and beside the limit of the machine."""
