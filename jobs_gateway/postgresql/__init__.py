"""Django's PostgreSQL for a server whose callers are told within two seconds when it is away: ``ENGINE`` names it."""
