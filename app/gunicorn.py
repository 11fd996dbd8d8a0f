"""gunicorn's settings: `gunicorn --config app/gunicorn.py wsgi:app`."""

import os

bind = f"{os.environ.get('HOST', '127.0.0.1')}:{os.environ.get('PORT', '8080')}"
worker_class = "gthread"
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
threads = int(os.environ.get("WEB_THREADS", "8"))
timeout = 60  # a heartbeat for gthread, not a limit on requests: those have their own deadlines
graceful_timeout = 30
keepalive = 5
limit_request_line = 2048
limit_request_fields = 40
limit_request_field_size = 4096
control_socket_disable = True
accesslog = None  # the application logs each request itself
