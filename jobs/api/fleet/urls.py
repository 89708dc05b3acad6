from django.urls import path

from jobs.api.fleet.views import FleetJobViewSet

urlpatterns = [path("job", FleetJobViewSet.as_view({"get": "list"}), name="fleet-job-list")]
