"""Installs t5x_lite: `pip install .` for the compute side, `pip install '.[data]'` for all."""
# SPDX-License-Identifier: Apache-2.0

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (HERE / 't5x_lite/__init__.py').read_text())[1]
REQUIREMENTS = [
    line
    for line in (HERE / 'requirements.txt').read_text().splitlines()
    if line and not line.startswith('#')
]
DATA = [
    'seqio>=0.0.20,<0.1',
    'tensorflow>=2.21,<2.22',
    'tensorflow-text>=2.21,<2.22',
    'tensorflow-datasets>=4.9.10,<5',
    'sentencepiece>=0.2.2',
    'importlib_resources',  # TFDS 4.9.10 needs it for builders of others and does not say so
]
HF = ['safetensors', 'tokenizers>=0.21']
QUANTISED = ['qwix>=0.1.8,<0.2']
TEST = ['pytest', 'pytest-timeout', 'pytest-xdist', 'pyyaml', 'ruff']

setup(
    name='t5x_lite',
    version=VERSION,
    description='Self-supervised pre-training and fine-tuning of Transformers in JAX',
    long_description=(HERE / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.11',
    packages=find_packages(include=['t5x_lite', 't5x_lite.*']),
    package_data={
        't5x_lite': ['*_template.html', 'data/corpora/*/*', 'launch/*.sh'],
    },
    install_requires=REQUIREMENTS,
    extras_require={
        'data': DATA,
        # Beam's protobuf and sentencepiece 0.2.3's do not load together.
        'beam': [*DATA, 'apache-beam>=2.77', 'sentencepiece==0.2.2', 'google-crc32c'],
        'tpu': ['jax[tpu]'],
        'cuda': ['jax[cuda13]'],
        'wandb': ['wandb'],
        'hf': HF,
        'quantised': QUANTISED,
        'metrics': ['sacrebleu>=2.4'],
        'lm-eval': ['lm-eval>=0.4.13,<0.5'],
        'mteb': ['mteb>=2.26,<3'],
        'test': [*DATA, *HF, *QUANTISED, *TEST],
        'test-hf': [*DATA, *HF, *QUANTISED, *TEST, 'torch>=2.4', 'transformers>=5'],
    },
    entry_points={'console_scripts': ['t5x-lite = t5x_lite.main:main']},
)
