"""Each file of deploy/, checked by a validator that knows its kind, and against what asyncworker does."""
