"""One error for bad user input: a message that names field, value, rule and fix."""
# SPDX-License-Identifier: Apache-2.0

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """Bad input from the user; the command line prints its message and exits with status 2."""


class RunError(RuntimeError):
    """A run that cannot go on (disk, checkpoint, data); printed as one message, exit status 1."""


def nearest(name: str, names: Iterable[str], count: int = 3) -> str:
    """A phrase such as `nearest: dropout, depth` (or all names if none is near) for messages."""
    names = sorted(names)
    near = difflib.get_close_matches(str(name), names, n=count, cutoff=0.5)
    if near:
        return 'nearest: ' + ', '.join(near)
    return 'known: ' + (', '.join(names[:20]) + (', ...' if len(names) > 20 else '') or 'none')
