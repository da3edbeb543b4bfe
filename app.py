"""Galatea's composition root: settings, extensions, services, and the page on top of them. Does no work itself.

    python app.py [flags]                       serve the page
    python app.py talk PORTRAIT VOICE [flags]   do one job and end; with --server URL a running studio does it
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from webui import cli, plugin_loader, settings
from webui.artifacts import Artifacts
from webui.errors import GalateaError
from webui.jobs.service import JobService
from webui.plugin_loader import Plugins
from webui.remote import RemoteService
from webui.settings import Settings

log = logging.getLogger(__name__)

EXTENSIONS = settings.PROJECT / "extensions"


def main(argv: Sequence[str], extensions: Path = EXTENSIONS) -> int:
    """Returns the exit code: 2 for what the user can mend in the input, 1 for the rest, 130 after Ctrl-C."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    make_printable(sys.stdout, sys.stderr)
    share_processors()
    try:
        plugins = plugin_loader.load(plugin_loader.BUILT_IN, extensions)
        options = vars(cli.parse(argv, plugins.kinds))
        chosen = settings.load(options, os.environ)
        if options["command"] is None:
            return serve(chosen, plugins)
        return once(options, chosen, plugins)
    except GalateaError as error:
        return cli.report_error(error, as_json="--json" in argv)
    except KeyboardInterrupt:
        return cli.INTERRUPTED
    except Exception:  # a bug, ours or an extension's: whoever reads --json gets a last line all the same
        log.exception("Something went wrong inside the studio.")
        return cli.report_bug(as_json="--json" in argv)


def make_printable(*streams: object) -> None:
    """Let a console that lacks a letter show its code, where Python would end the program."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def share_processors() -> None:
    """Let threads of PyTorch that wait for each other sleep soon. By OpenMP's default they keep a processor busy meanwhile, and
    when the page, ffmpeg or anything else wants one, all wait for the one that lost its turn: 20 steps of a small model took 18 s
    instead of 2 s. Must be said before PyTorch is loaded; worker processes inherit it. What the user has set stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if os.environ["OMP_WAIT_POLICY"] == "PASSIVE":
        # GNU's OpenMP, which Linux has: some microseconds awake, not none. On an idle machine that takes 0.8 s instead of 1.25 s.
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")


def once(options: dict, chosen: Settings, plugins: Plugins) -> int:
    """Do the one job that the command line names, here or on the studio that it names."""
    artifacts = Artifacts(chosen.outputs_dir)
    service: JobService | RemoteService
    if options["server"] is None:
        service = JobService(plugins.kinds, artifacts, chosen, alone=True)
    else:
        service = RemoteService(plugins.kinds, artifacts, chosen, options["server"])
    try:
        return cli.run(service.kinds()[options["command"]], options, service, artifacts)
    finally:
        service.close()


def serve(chosen: Settings, plugins: Plugins) -> int:
    """Serve the page until Ctrl-C."""
    from webui.api.guard import Guard
    from webui.api.jobs import http_api
    from webui.ui import server

    chosen.check_serving()
    logging.getLogger().setLevel(logging.INFO)
    artifacts = Artifacts(chosen.outputs_dir)
    service = JobService(plugins.kinds, artifacts, chosen)
    guard = Guard(chosen, http_api(service, artifacts, chosen))
    return server.serve(service, artifacts, chosen, plugins, guard)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
