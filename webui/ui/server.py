"""Serves the page until it is told to stop: the port, Gradio's surroundings, the public link. Builds no widgets.

Gradio reads part of its environment while it is imported, so everything of it is imported inside `serve`.
"""

from __future__ import annotations

import gc
import inspect
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from webui.errors import GalateaError, InvalidRequest
from webui.settings import DEFAULT_PORT

if TYPE_CHECKING:
    from webui.artifacts import Artifacts
    from webui.jobs.service import JobService
    from webui.plugin_loader import Plugins
    from webui.settings import Settings

log = logging.getLogger(__name__)

PORTS_TRIED = 100
THREADS = 100
"""A visitor who watches a job holds one thread; Gradio's own default of 40 would be too few for a class."""

QUEUE_PAUSE = 0.02
"""Seconds between two looks of Gradio's queue for something to do. Its own 0.001 costs 4 % of a processor around the clock;
this is the most that a click can be delayed."""

FOLDER, LOCK = "galatea-page-", "held.lock"

TOKEN_LOGIN = "Any name, and the API token as password. · 用户名任意，密码为 API 令牌。"

SWEEP_PAUSE = 600.0
"""Seconds between two rounds of deleting what is due: old trash, uploads of no job, what the retention rule names."""

BEFORE_WARM_UP = 2.0
"""Seconds that the first visitor's page has the processor to itself before the models are loaded."""


class Guard(Protocol):
    """Stands in front of the page: lets in who may, and answers what is not the page's (webui.api.guard)."""

    @property
    def middleware(self) -> Any: ...

    @property
    def closed(self) -> bool: ...

    def admits(self, name: str, password: str) -> bool: ...

    def stand_around(self, app: Any) -> None: ...

    def allow_host(self, name: str) -> None: ...


def serve(service: JobService, artifacts: Artifacts, settings: Settings, plugins: Plugins, guard: Guard) -> int:
    """Serve until Ctrl-C or SIGTERM, then close the service. Returns the exit code."""
    host = "0.0.0.0" if settings.listen else "127.0.0.1"
    port = free_port(host, settings.port or DEFAULT_PORT)
    for warning in settings.serving_warnings():
        log.warning(warning)
    with private_folder() as folder, stop_signal() as stop:
        prepare_environment(folder, behind_proxy=settings.share or bool(settings.allowed_hosts))
        with without_garbage_collection():
            page = _launch(service, artifacts, settings, plugins, guard, host, port, folder)
        try:
            removed = artifacts.clean()
            if removed:
                log.info("Removed %d unfinished files of an earlier run.", removed)
            if not stop.wait(BEFORE_WARM_UP):
                service.warm_up()
            while not stop.wait(SWEEP_PAUSE):
                sweep(service)
            log.info("Stopping. Unfinished jobs go on at the next start.")
        finally:
            # First the workers, which keep what they have finished, then the page.
            service.close()
            close_page(page)
    return 0


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Let Python look for no garbage meanwhile: importing Gradio leaves next to none, and looking takes a seventh of the start.
    What is there afterwards stays, and is not looked through again.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def no_stubs() -> Iterator[None]:
    """Import Gradio without its type stubs for editors: it writes one beside the source of each widget whenever it is imported,
    which takes a quarter of the start. It leaves alone what has no file, so meanwhile no class has.
    """
    known = inspect.getfile

    def unless_class(thing: Any) -> str:
        if isinstance(thing, type):
            raise OSError("no stubs are wanted")
        return known(thing)

    inspect.getfile = unless_class
    try:
        yield
    finally:
        inspect.getfile = known


def close_page(page: Any) -> None:
    """Close without waiting for open pages: each has a stream that never ends by itself, and its end is no error to tell."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    page.server.force_exit = True
    page.close(verbose=False)


def sweep(service: JobService) -> None:
    """Delete what nobody needs any more; that it fails is no reason to stop serving."""
    try:
        service.sweep()
    except (GalateaError, OSError) as error:
        log.warning("%s", error)


def free_port(host: str, wanted: int) -> int:
    """`wanted`, or the next port that nobody listens on, said in the log. Raises InvalidRequest when there is none."""
    for port in range(wanted, min(wanted + PORTS_TRIED, 65536)):
        if _is_free(host, port):
            if port != wanted:
                log.warning("Port %d is taken by another program; using the next free one, %d.", wanted, port)
            return port
    raise InvalidRequest(f"Port {wanted} and the {PORTS_TRIED} after it are taken. Choose another with --port.")


def prepare_environment(folder: Path, behind_proxy: bool) -> None:
    """What Gradio and the hub's library must find before they are imported: no calls home, files in `folder` only.

    behind_proxy: whether another server on this machine may say for whom it asks; otherwise anybody could make up an address.
    """
    os.environ.setdefault("FORWARDED_ALLOW_IPS", "127.0.0.1,::1" if behind_proxy else "")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    # Gradio asks itself whether it is up; through a proxy it would not be.
    for name in ("NO_PROXY", "no_proxy"):
        known = [entry for entry in os.environ.get(name, "").split(",") if entry]
        os.environ[name] = ",".join(dict.fromkeys([*known, "localhost", "127.0.0.1", "0.0.0.0"]))
    warnings.filterwarnings("ignore", message=".*copy keyword is deprecated.*")
    logging.getLogger("httpx").setLevel(logging.WARNING)


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder of this run that only this user can look into; removed at the end. Those of killed runs are removed at once."""
    folder = Path(tempfile.mkdtemp(prefix=FOLDER)).resolve()
    held = FileLock(folder / LOCK)
    held.acquire()
    remove_abandoned(folder.parent)
    try:
        yield folder
    finally:
        held.release()
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(parent: Path) -> None:
    """Remove the folders whose run has ended without doing so: nobody holds their lock."""
    for lock in parent.glob(f"{FOLDER}*/{LOCK}"):
        with suppress(OSError, Timeout), FileLock(lock, timeout=0):
            shutil.rmtree(lock.parent, ignore_errors=True)


@contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM or the end of the terminal sets."""
    stop = threading.Event()
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _launch(
    service: JobService,
    artifacts: Artifacts,
    settings: Settings,
    plugins: Plugins,
    guard: Guard,
    host: str,
    port: int,
    folder: Path,
) -> Any:
    with no_stubs():
        from webui.ui import shell
    from webui.ui.texts import Texts

    texts = Texts(settings.language)
    notices: list[shell.Notice] = []
    refuse_downloads()
    page = shell.build(service, artifacts, settings, plugins, texts, notices, folder)
    rest_when_idle(page)
    # launch(), not a mounted app: only there does Gradio check which files a visitor may name.
    app, _, public = page.launch(
        server_name=host,
        server_port=port,
        share=settings.share,
        auth=guard.admits if guard.closed else None,
        auth_message=None if settings.gradio_auth else TOKEN_LOGIN,
        prevent_thread_lock=True,
        quiet=True,
        show_error=False,
        max_threads=THREADS,
        max_file_size=f"{settings.max_upload_mb}mb",
        app_kwargs={"middleware": [guard.middleware]},
        enable_monitoring=False,
        ssr_mode=False,
        run_history=False,
        footer_links=[],
        theme=shell.theme(),
        css_paths=[shell.STYLE],
        favicon_path=str(shell.STYLE.with_name("favicon.svg")),
        i18n=texts.catalogue(),
    )
    # Gradio puts its own answers to other sites' browsers outside of any middleware that it is given.
    guard.stand_around(app)
    if public:
        guard.allow_host(urlsplit(public).hostname or "")
    print(f"Galatea is at http://localhost:{port} (Ctrl-C stops it)", flush=True)
    if settings.listen:
        print(f"Other computers find it at http://{socket.gethostname()}:{port}", flush=True)
    if settings.share and public:
        print(f"Public link: {public}", flush=True)
    elif settings.share:
        log.warning(_no_link(texts, None))
        notices.append(_no_link)
    return page


def refuse_downloads() -> None:
    """Gradio fetches a file for whoever names a URL where a file is wanted. Here that is the API's, and the owner's choice."""
    from gradio import Error, processing_utils

    async def refuse(*_: Any, **__: Any) -> str:
        raise Error("The page fetches nothing by URL. Upload the file itself.", print_exception=False)

    processing_utils.async_ssrf_protected_download = refuse


def rest_when_idle(page: Any) -> None:
    """Let the queue of an idle page sleep. A Gradio without this knob keeps its own pace."""
    for pause in ("sleep_when_free", "progress_update_sleep_when_free"):
        if hasattr(page._queue, pause):
            setattr(page._queue, pause, max(getattr(page._queue, pause), QUEUE_PAUSE))


def _no_link(texts: Any, visitor: Any) -> str:
    return texts.say("studio", "no_share", visitor, reason=texts.say("studio", "offline", visitor))


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if os.name != "nt":
            # As servers do it: a port in TIME_WAIT counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError as error:
            if os.name == "nt":
                return False  # what Windows says of a port that another program keeps to itself
            raise InvalidRequest(
                f"Port {port} is not open to ordinary users of this computer. Choose one from 1024 on with --port."
            ) from error
        except OSError:
            return False
    return True
