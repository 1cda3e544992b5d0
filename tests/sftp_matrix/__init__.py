"""Every operation of the SFTP client, on every kind of server, over both transports, byte for byte.

`python -m tests.sftp_matrix` prints a table; `--short` takes smaller files, and is what the suite runs.
"""
