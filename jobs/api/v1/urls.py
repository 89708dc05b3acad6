from django.urls import path

from jobs.api.v1.views import EventViewSet, JobViewSet

# An id is any text here: one that is no ULID is answered as an unknown job.
urlpatterns = [
    path("jobs", JobViewSet.as_view({"get": "list"}), name="job-list"),
    path("jobs/<str:public_id>", JobViewSet.as_view({"get": "retrieve"}), name="job-detail"),
    path("jobs/<str:public_id>/events", JobViewSet.as_view({"get": "events"}), name="job-events"),
    path("events", EventViewSet.as_view({"get": "page"}), name="events"),
]
