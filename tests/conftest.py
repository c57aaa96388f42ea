"""Eight CPU devices for every test, and no silent broadcasting between ranks.

`JAX_PLATFORMS=cuda pytest tests/model/test_backends.py` runs what needs a GPU.
"""
# SPDX-License-Identifier: Apache-2.0

import os

import pytest

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Small models: XLA's costly passes take longer than they save. `make smoke` runs with them.
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
os.environ['XLA_FLAGS'] = (
    os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
)
# What tests compile is not kept where the user's programs are.
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', '')

import jax  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items):
    """Of a test marked `one`, all but the first parameters are marked `all`. The longest first."""
    items.sort(key=lambda item: item.path.name != 'test_resume.py')
    seen = set()
    for item in items:
        if item.get_closest_marker('one') and not item.get_closest_marker('all'):
            if item.function in seen:
                item.add_marker(pytest.mark.all)
            seen.add(item.function)
