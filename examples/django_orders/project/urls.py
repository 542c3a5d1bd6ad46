from django.contrib import admin
from django.urls import include, path
from orders import views

urlpatterns = [
    path("orders", views.take),
    path("orders/<int:order_id>", views.show),
    path("admin/", admin.site.urls),
    path("jobs/", include("jobs_web.django")),  # the dashboard: staff users look, superusers act
]
