"""The session API over HTTP: the same sessions, for clients in other processes and languages.

    models      the shapes of the wire
    problems    which error becomes which answer
    hosting     the sessions that this server has started, by id and by key
    sessions    the routes of the API
    pages       the HTML pages for people
    metrics     the numbers for Prometheus
    guard       who gets in, and with how much
    addresses   what operations may reach
    app         all of it as one ASGI application
    run         that application on uvicorn, until a signal
    deployment  what runs and watches it elsewhere: a manifest, and alert rules

Rule: no lifecycle here. A route checks the form of a request, asks an `AsyncClient`, and puts the answer into the words
of the wire; idle and maximum deadlines, teardown and the log are the engine's.

It comes with the extra ``server``: ``pip install "session-lifecycle[server]"``.
"""

from lifecycle.server.app import create_app
from lifecycle.server.run import serve

__all__ = ["create_app", "serve"]
