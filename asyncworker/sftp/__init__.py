"""SFTP for thousands of files: a lean client of SFTP version 3, many requests under way on a few connections.

::

    pool = await sftp.pool("files.example.com", username="u")   # one a process, shared by all tasks
    transfer = await pool.get("/in/a.xml", "/data/a.xml")

Files: packets (bytes and values), protocol (the state machine), transports, host_keys, ssh_config and ssh_target (SSH),
session (the two together); traffic, easing and open_files (how much at once);
transfer, sending, streams, remotefile, listing and request (what runs on a session); connections (who runs where);
calls, metadata, namespace, trees, files and pool (what a task calls), batch and walking (many of those); download and
striped, upload, stripedput and space (whole folders, and their large files, in stripes).
"""

from asyncworker.sftp.batch import FileResult
from asyncworker.sftp.download import download
from asyncworker.sftp.listing import Entry
from asyncworker.sftp.names import check_name, local_path
from asyncworker.sftp.packets import Attributes, FileSystem
from asyncworker.sftp.pool import SFTPPool, pool
from asyncworker.sftp.progress import BulkProgress, BulkReport
from asyncworker.sftp.streams import ReadStream, WriteStream
from asyncworker.sftp.sync import sync
from asyncworker.sftp.transfer import Transfer
from asyncworker.sftp.upload import upload

__all__ = [
    "Attributes",
    "BulkProgress",
    "BulkReport",
    "Entry",
    "FileResult",
    "FileSystem",
    "ReadStream",
    "SFTPPool",
    "Transfer",
    "WriteStream",
    "check_name",
    "download",
    "local_path",
    "pool",
    "sync",
    "upload",
]
