"""The support console: Django's admin for jobs, tenants, API tokens, audit entries and users.

All models are registered here. The pages of tenants and tokens show jobs and write audit entries, and the app
``tenants`` must not import ``jobs``, so ``tenants`` has no ``admin.py``.
"""

from django.contrib import admin

from jobs.admin import audit, integers, jobs, tenants, users  # noqa: F401 - importing registers models and a lookup
from jobs.admin.login import LoginForm

admin.site.site_header = "Jobs Gateway"
admin.site.site_title = "Jobs Gateway console"
admin.site.index_title = "What needs attention"
admin.site.site_url = None
admin.site.login_form = LoginForm
# The header has links to the four lists.
admin.site.enable_nav_sidebar = False
