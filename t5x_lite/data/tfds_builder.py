"""The bundled corpora as TFDS datasets, prepared on first use without a network."""
# SPDX-License-Identifier: Apache-2.0

import contextlib
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import tensorflow_datasets as tfds
from etils import epath

from t5x_lite.data import corpora
from t5x_lite.data.sizes import default_data_dir
from t5x_lite.errors import ConfigError

SHARDS = 8
"""Files per split: what hosts divide among themselves, the same on any number of hosts."""


class _Corpus(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A corpus's JSON lines; `KEYS` are the fields of each, all of them texts."""

    VERSION = tfds.core.Version('1.0.0')
    KEYS = ('id', 'title', 'text')
    FOLDER = None  # where its files are, if not in corpora.CORPUS_EN_PD
    code_path = epath.Path(__file__)  # TFDS 4.9.10 finds it with a package it does not declare

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict({key: tfds.features.Text() for key in self.KEYS}),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> Mapping:
        return {
            s: self._generate_examples(corpora.split_path(s, self.FOLDER)) for s in corpora.SPLITS
        }

    def _generate_examples(self, path: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
        for document in corpora.documents(path):
            yield document['id'], document


class CorpusEnPd(_Corpus):
    """Jane Austen's novels by chapter and U.S. annual messages since 1933, public domain."""

    KEYS = ('id', 'title', 'source', 'text')


class WikiTopics(_Corpus):
    """Leads of English Wikipedia articles with their titles and topics, CC BY-SA 4.0."""

    KEYS = ('id', 'title', 'text', 'label', 'description')
    FOLDER = corpora.WIKI_TOPICS


class GnomeHelpEnDe(_Corpus):
    """Paragraphs of GNOME's help, English and German, CC BY-SA 3.0."""

    KEYS = ('id', 'page', 'text', 'translation')
    FOLDER = corpora.GNOME_HELP_EN_DE


class GnomeHelpEnZh(_Corpus):
    """Paragraphs of GNOME's help, English and simplified Chinese, CC BY-SA 3.0."""

    KEYS = ('id', 'page', 'text', 'translation')
    FOLDER = corpora.GNOME_HELP_EN_ZH


_LOCK = threading.Lock()  # TFDS's builders and the standard output are the whole process's

NAME = f'{CorpusEnPd.name}:{CorpusEnPd.VERSION}'


def prepare(data_dir: str | Path | None = None, builder: type[_Corpus] = CorpusEnPd) -> Path:
    """The TFDS data dir that holds the corpus; written there first if it is not there yet.

    Any number of processes may call this at once: each writes a folder of its own, one rename
    puts it in place, and the others use that one.

    Raises:
      ConfigError: the corpus is damaged or the data dir cannot be written.
    """
    root = Path(data_dir or default_data_dir())
    final = root / builder.name / str(builder.VERSION)
    with _LOCK:
        if not final.exists():
            try:
                _write(root, final, builder)
            except OSError as error:
                raise ConfigError(
                    f'data dir {root}: {builder.name} cannot be written there ({error}); '
                    'set T5X_LITE_DATA_DIR to a folder with 30 MB to write to'
                ) from error
    return root


def _write(root: Path, final: Path, corpus: type[_Corpus] = CorpusEnPd) -> None:
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix='.preparing-') as scratch:
        tfds.disable_progress_bar()
        builder = corpus(data_dir=scratch)
        config = tfds.download.DownloadConfig(num_shards=SHARDS, try_download_gcs=False)
        with contextlib.redirect_stdout(sys.stderr):  # TFDS prints; stdout is the caller's
            builder.download_and_prepare(download_config=config)
        try:
            Path(builder.data_dir).rename(final)
        except OSError:
            if not final.exists():  # else another process was first
                raise


def prepared(builder: type[_Corpus]) -> Callable[[], Path]:
    """`prepare` of a corpus, for `text_task.PreparedTfds`."""
    return lambda: prepare(builder=builder)
