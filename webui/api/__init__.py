"""The HTTP API: the same jobs as on the page and the command line, for other programs. Builds no services, does no work.

guard.py     who may come in at all, for the page's routes and these: Host, Origin, passwords, rates
jobs.py      the routes under /api
sdapi.py     A1111's routes under /sdapi/v1
submitting.py  how many jobs are taken
bodies.py    request bodies, read under a limit
answers.py   what is answered, and what is kept out of answers
docs.py      /openapi.json and /docs
"""
