"""Django and Celery, in the shape of django-anymail: a view without CSRF verifies, parses and sends a signal.

The receiver of the signal enqueues. There is no database.
"""

from typing import Any

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.dispatch import Signal, receiver
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt

from tests.bench.endpoints.celery_queue import apply_visit
from tests.bench.endpoints.checks import Rejected, check

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],  # it sets Content-Length
    ROOT_URLCONF=__name__,
    SECRET_KEY="bench",
)
django.setup()
delivered = Signal()


@method_decorator(csrf_exempt, name="dispatch")
class WebhookView(View):
    def post(self, request: HttpRequest) -> JsonResponse:
        try:
            id, body = check(request.headers, request.body)
        except Rejected as rejected:
            return JsonResponse({"ok": False}, status=rejected.status)
        delivered.send(sender=type(self), id=id, body=body)
        return JsonResponse({"ok": True}, status=202)


@receiver(delivered)
def enqueue(sender: type[View], id: str, body: str, **options: Any) -> None:
    apply_visit.delay(id, body)


urlpatterns = [path("", WebhookView.as_view())]
app = WSGIHandler()
