"""Random histories of writers of one file on a server, of faults and of kills, in virtual time."""
