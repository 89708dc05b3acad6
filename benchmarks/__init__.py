"""What ``make bench`` runs: the gateway beside what one would use instead, and beside the limit of the machine."""
