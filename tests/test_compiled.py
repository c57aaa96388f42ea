"""What was compiled once is read by the next process; a folder that cannot be used is a warning."""
# SPDX-License-Identifier: Apache-2.0

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from t5x_lite import compiled

PROGRAM = """
import jax, numpy as np
from t5x_lite import compiled
compiled.keep()
found = []
jax.monitoring.register_event_listener(lambda name, **_: found.append(name))
step = jax.jit(lambda x, y: (x + y, x * y), donate_argnums=0)
for _ in range(2):
    x = jax.device_put(np.arange(8.0, dtype=np.float32))
    total, product = step(x, np.float32(3))
    print(x.is_deleted(), total, product)
print('hits', found.count('/jax/compilation_cache/cache_hits'))
print('folder', jax.config.jax_compilation_cache_dir)
"""


def run(home: Path, **changes: str) -> tuple[str, str]:
    """What the program prints on both streams, in a home of its own."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(('JAX_COMPIL', 'XLA_FLAGS'))}
    own |= {'XDG_CACHE_HOME': str(home), 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}
    own |= changes
    command = [sys.executable, '-c', PROGRAM]
    ended = subprocess.run(command, env=own, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, ended.stderr


def folder(home: Path) -> Path:
    """The one folder, of this processor, that was made there."""
    [found] = (home / 't5x_lite/xla').iterdir()
    return found


def test_next_process_reads_what_was_compiled_but_not_what_a_kill_left_half_written(tmp_path):
    first, _ = run(tmp_path)
    kept = sorted(folder(tmp_path).glob('*-cache'))
    assert 'hits 0' in first and kept
    second, warned = run(tmp_path)
    assert 'hits 0' not in second and 'hits ' in second
    values = lambda text: [line for line in text.splitlines() if not line.startswith('hits')]
    assert values(second) == values(first)
    assert values(first)[0].startswith('True')  # donated, also by a program that was read
    assert warned == ''
    assert sorted(folder(tmp_path).glob('*-cache')) == kept
    assert folder(tmp_path).stat().st_mode & 0o077 == 0  # nobody else puts programs there
    for entry in kept:
        entry.write_bytes(entry.read_bytes()[:100])
        entry.with_name(entry.name.removesuffix('-cache') + '-atime').unlink()
    again, warned = run(tmp_path)  # jax itself would never write them again
    assert again == first and warned == ''
    assert sorted(folder(tmp_path).glob('*-cache')) == kept
    assert all(entry.stat().st_size > 100 for entry in kept)


@pytest.mark.all
def test_users_own_choice_of_a_folder_or_of_none_is_kept(tmp_path):
    named = tmp_path / 'named'
    for value in (str(named), ''):
        told, _ = run(tmp_path / 'home', JAX_COMPILATION_CACHE_DIR=value)
        assert f'folder {value}\n' in told
    assert list(named.glob('*-cache')) and not (tmp_path / 'home').exists()


def test_folder_that_cannot_be_written_is_one_warning_that_names_it(
    tmp_path, monkeypatch, caplog, request
):
    before = jax.config.jax_compilation_cache_dir
    request.addfinalizer(lambda: jax.config.update('jax_compilation_cache_dir', before))
    jax.config.update('jax_compilation_cache_dir', None)
    (tmp_path / 'file').write_text('mine')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    compiled.keep()
    [record] = caplog.records
    assert str(tmp_path / 'file/t5x_lite/xla') in record.getMessage()
    assert 'JAX_COMPILATION_CACHE_DIR' in record.getMessage()
    assert jax.config.jax_compilation_cache_dir is None
