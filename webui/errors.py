"""Every error that Galatea raises on purpose. Imports nothing of ours.

    GalateaError
    ├── InvalidRequest        what was asked cannot be done: the user changes the request
    │   ├── MediaError        a picture, sound or video file cannot be read, or is not what it should be
    │   └── NoFaceFound       the portrait shows no face that can be used
    ├── StorageError          the disk is full, or a folder cannot be written
    ├── ModelMissing          the weights that were asked for are not in models/
    ├── UnsupportedModel      a weights file is not of a kind that can be used here
    ├── OutOfMemory           the device has too little memory for this job
    ├── PluginError           an extension is broken or does not fit this version
    ├── ServerUnreachable     another computer's studio cannot be reached, or not any more
    ├── WorkerDied            the program that ran the job ended in the middle of it, again and again
    └── Cancelled             the owner of the job stopped it

A message is one or two plain sentences: what is wrong, then what to do. It is shown as it stands, in the page and on the
command line. `exit_code` is what the command line returns: 2 for what the user can mend in the input, 1 for the rest.
"""

from __future__ import annotations

from collections.abc import Sequence


class GalateaError(Exception):
    """Base of every error with a message that a user can act on."""

    exit_code = 1


class InvalidRequest(GalateaError):
    """The request cannot be carried out as it is."""

    exit_code = 2


class MediaError(InvalidRequest):
    """A picture, sound or video file cannot be read, or does not hold what is needed."""


class NoFaceFound(InvalidRequest):
    """The portrait shows no face, or none large enough, or not as many as `--face` asks for."""


class StorageError(GalateaError):
    """The disk is full, or a folder or file cannot be written."""

    exit_code = 2


class ModelMissing(GalateaError):
    """The weights that were asked for are not there; the message names the folder they go in."""


class UnsupportedModel(GalateaError):
    """A weights file is broken, or of an architecture that cannot be used here."""


class OutOfMemory(GalateaError):
    """The device has too little memory for this job."""


class PluginError(GalateaError):
    """An extension is broken or made for another version of the plugin contract."""


class ServerUnreachable(GalateaError):
    """The server cannot be reached, or not any more. What was begun there goes on."""


class WorkerDied(GalateaError):
    """A job ended the program that ran it, so often that it was given up."""


class Cancelled(GalateaError):
    """The job's owner stopped it before there was anything to keep."""


def did_you_mean(names: Sequence[str]) -> str:
    """Ends a message about a name that is not known. names: at least one that is near."""
    *others, last = names
    return f"Did you mean {', '.join(others)}{' or ' if others else ''}{last}?"
