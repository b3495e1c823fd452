"""Django: encrypted notes in a model, a key per tenant.

Run: pip install django && python django_app.py runserver
"""

import functools
import os
import secrets
import sys

import django
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY=secrets.token_hex(32),
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "notes.sqlite3"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    ANYSEAL=os.environ.get("SETTINGS")  # a settings file, or keys that end with the process
    or {
        "ServiceName": "notes",
        "ProductID": "examples",
        "Metastore": "memory",
        "KMS": "static",
        "StaticMasterKeyHex": secrets.token_hex(32),
    },
)
django.setup()

from django.core.management import execute_from_command_line  # noqa: E402
from django.db import connection, models  # noqa: E402
from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.shortcuts import get_object_or_404  # noqa: E402
from django.urls import path  # noqa: E402

from anyseal.sync import SessionFactory  # noqa: E402


@functools.cache
def sessions() -> SessionFactory:
    """One for the process, made on first use: so each worker has its own."""
    return SessionFactory.from_config(settings.ANYSEAL)


class Note(models.Model):
    tenant = models.CharField(max_length=100)
    name = models.CharField(max_length=100)
    sealed = models.TextField()

    class Meta:
        app_label = "notes"

    @property
    def text(self) -> str:
        return sessions().session(self.tenant).decrypt_text(self.sealed)

    @text.setter
    def text(self, text: str) -> None:
        self.sealed = sessions().session(self.tenant).encrypt_text(text)


def note(request: HttpRequest, name: str) -> HttpResponse:
    tenant = request.headers["X-Tenant"]  # a real service authenticates it
    if request.method == "PUT":
        found, _ = Note.objects.get_or_create(tenant=tenant, name=name)
        found.text = request.body.decode()
        found.save()
        return HttpResponse(status=204)
    return HttpResponse(get_object_or_404(Note, tenant=tenant, name=name).text)


urlpatterns = [path("notes/<str:name>", note)]

if __name__ == "__main__":
    if Note._meta.db_table not in connection.introspection.table_names():
        with connection.schema_editor() as editor:
            editor.create_model(Note)
    execute_from_command_line(sys.argv)
