"""The demo: a tenant with jobs, generated pictures, a token and a console login."""
