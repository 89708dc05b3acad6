"""The support console: Django's admin over jobs, tenants, tokens and what was done in it.

It is registered here whole. The pages of tenants and tokens show jobs and leave audit entries, and ``tenants`` may not
know ``jobs``; so tenants have no admin of their own.
"""

from django.contrib import admin

from jobs.admin import audit, jobs, tenants  # noqa: F401 - each registers its pages
from jobs.admin.login import LoginForm

admin.site.site_header = "Jobs Gateway"
admin.site.site_title = "Jobs Gateway console"
admin.site.index_title = "What needs attention"
admin.site.site_url = None
admin.site.login_form = LoginForm
# The header links the four lists.
admin.site.enable_nav_sidebar = False
