"""The application for `flask --app wsgi` and for other servers; `ksef-proxy` needs neither."""

from app import create_app

app = create_app()
