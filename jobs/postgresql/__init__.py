"""Django's PostgreSQL backend for a cluster whose primary moves; the settings name it as ENGINE."""
