"""A stateful stand-in for KSeF v2 and Latarnia over real HTTP, for test, demo and prod at once.

`server.start()` runs it in this process, `python -m sandbox` on its own; `control.Control` steers
it through `/_sandbox/…` (sessions to order, clock, faults, log of calls).

| modules | what stands there |
|---|---|
| `server`, `app` | sockets; the routes put together, every call's way through log and faults |
| `auth`, `sending`, `sessions`, `documents`, `latarnia` | the routes of KSeF and Latarnia |
| `access`, `paging`, `problems`, `quota` | bearer, pages, error formats, limits |
| `state`, `world`, `clock`, `settings`, `keys` | what is remembered |
| `identifiers`, `upo`, `xml_invoice` | numbers and documents |
| `control_plane`, `control`, `seeding`, `faults`, `fault_answers`, `calls` | the control plane |
| `postgres` | the embedded PostgreSQL of `make run` and the tests, nothing to do with KSeF |
"""
