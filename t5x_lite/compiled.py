"""Compiled programs kept on the disk: a run like one before starts without compiling."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import logging
import os
import platform
import tempfile
import zlib
from pathlib import Path

LARGEST = 4 << 30  # bytes of the folder; what was not used for longest goes first
FROM = 0.3  # seconds of compiling from which on a program is kept: to read one takes a tenth of it
LOCK_PATIENCE = 10  # seconds, as jax waits itself
log = logging.getLogger(__name__)


def keep() -> None:
    """From here on jax's programs are looked for, and kept, in a folder of this user.

    That is `$XDG_CACHE_HOME/t5x_lite/xla`, or `~/.cache/t5x_lite/xla`. JAX_COMPILATION_CACHE_DIR
    names another one, or none if it is empty. Any number of processes may share the folder. One
    that cannot be written is a warning, and nothing is kept.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is not None:
        return  # the user's own choice, by the environment or in Python
    folder = _folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # programs that will be run
        with tempfile.TemporaryFile(dir=folder):
            pass
        _drop_unfinished(folder)
    except OSError as error:
        log.warning(
            'compiled programs are not kept: %s: %s; name a folder by JAX_COMPILATION_CACHE_DIR, '
            'or set it to nothing to do without',
            folder,
            error.strerror or error,
        )
        return
    jax.config.update('jax_compilation_cache_dir', str(folder))
    jax.config.update('jax_compilation_cache_max_size', LARGEST)
    if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
        jax.config.update('jax_persistent_cache_min_compile_time_secs', FROM)


def _folder() -> Path:
    """One for each kind of processor: a home may be shared by several, and programs are not."""
    home = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(home) / 't5x_lite' / 'xla' / f'{zlib.crc32(_processor().encode()):08x}'


def _processor() -> str:
    with contextlib.suppress(OSError), open('/proc/cpuinfo', encoding='utf-8') as lines:
        told = [line for line in lines if line.startswith(('model name', 'flags', 'Features'))]
        return platform.machine() + ''.join(sorted(set(told)))
    return platform.machine() + platform.processor()


def _drop_unfinished(folder: Path) -> None:
    """Removes what a kill left half written: jax would neither read nor replace it.

    An entry's time of use is written after it is whole.
    """
    from filelock import FileLock, Timeout

    # Another process holds the lock only while it reads or writes an entry.
    with contextlib.suppress(Timeout), FileLock(folder / '.lockfile', timeout=LOCK_PATIENCE):
        for entry in folder.glob('*-cache'):
            if not entry.with_name(entry.name.removesuffix('-cache') + '-atime').exists():
                entry.unlink(missing_ok=True)
