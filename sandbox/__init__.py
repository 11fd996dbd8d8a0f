"""A stateful stand-in for KSeF v2 and Latarnia over real HTTP, for test, demo and prod at once.

`server.start()` runs it in this process, `python -m sandbox` on its own; `control.Control` steers
it through `/_sandbox/…` (sessions to order, clock, faults, log of calls).

| modules | what stands there |
|---|---|
| `server`, `app`, `blueprints` | sockets; every call's way through log and faults; the addresses |
| `auth`, `sending`, `batch`, `sessions`, `documents`, `latarnia` | routes of KSeF and Latarnia |
| `access`, `paging`, `problems`, `quota` | bearer, pages, error formats, limits |
| `state`, `world`, `clock`, `settings`, `keys` | what is remembered |
| `bodies`, `identifiers`, `upo`, `xades`, `xml`, `xml_invoice` | JSON, numbers and documents |
| `control_plane`, `control`, `orders`, `seeding` | the control plane, its client, their JSON |
| `faults`, `fault_answers`, `forgeries` | faults that wait, what they do |
| `relay` | a TCP relay that spoils connections |
| `run`, `demo`, `postgres` | `make run` and the embedded PostgreSQL, nothing to do with KSeF |
"""
