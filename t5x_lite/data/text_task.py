"""What a seqio task of plain text needs: a source that is checked, and one way to make tokens."""
# SPDX-License-Identifier: Apache-2.0

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from t5x_lite.data import vocabularies
from t5x_lite.errors import ConfigError

_FIX = 'name the folder that holds it with --tfds_data_dir=DIR, or prepare it with TFDS'


class _Uncached(seqio.utils.LazyTfdsLoader):
    """Small datasets are not cached in memory: TensorFlow warns of every pass that ends early."""

    @property
    def read_config(self) -> tfds.ReadConfig:
        return tfds.ReadConfig(try_autocache=False)


class PreparedTfds(seqio.TfdsDataSource):
    """A prepared TFDS dataset, looked for when it is first read, never downloaded.

    It is read from `--tfds_data_dir`, or TFDS's own default folder, or where `prepare` puts it.

    Args:
      name: dataset, config and version, such as 'c4/en:3.0.1'.
      splits: seqio split to TFDS split.
      prepare: puts the dataset onto this machine if it is not there; returns the data dir.
    """

    def __init__(
        self, name: str, splits: Mapping[str, str], prepare: Callable[[], Path] | None = None
    ):
        super().__init__(name, splits=dict(splits), read_only=True)
        self._tfds_dataset = _Uncached(name, split_map=dict(splits), read_only=True)
        self._prepare = prepare

    def get_dataset(self, *args, **kwargs) -> tf.data.Dataset:
        self._open()
        return super().get_dataset(*args, **kwargs)

    def list_shards(self, split: str) -> Sequence[str]:
        self._open()
        return super().list_shards(split)

    def num_input_examples(self, split: str) -> int | None:
        self._open()
        return super().num_input_examples(split)

    def _open(self) -> None:
        loader = self.tfds_dataset
        if self._prepare:
            loader.override_data_dir(str(self._prepare()))
        else:
            _check(loader.name, loader.data_dir or tfds.core.constants.DATA_DIR)


def _check(name: str, data_dir: str) -> None:
    dataset, version = name.split(':')
    folder = f'{data_dir}/{dataset}'
    try:
        found = tf.io.gfile.glob(f'{folder}/*/dataset_info.json')
    except tf.errors.OpError as error:
        raise ConfigError(
            f'tfds_data_dir={data_dir}: cannot be read ({error.message}); {_FIX}'
        ) from error
    versions = [Path(path).parent.name for path in found]
    if version not in versions:
        raise ConfigError(
            f'tfds_data_dir={data_dir}: {name} must be prepared there, but {folder}/{version} is '
            f'not; versions there: {", ".join(sorted(versions)) or "none"}; {_FIX}'
        )


def text_task(
    name: str,
    source: seqio.DataSource,
    *,
    vocabulary: seqio.Vocabulary | None = None,
    text_key: str = 'text',
    keep: Callable[[Mapping[str, tf.Tensor]], tf.Tensor] | None = None,
    shuffle_buffer: int = 1000,
) -> seqio.Task:
    """Registers a task that any objective takes: `targets`, the ids of whole documents.

    No EOS is added: the objective's converter does that. Documents of white space are dropped.

    Args:
      name: the task's name.
      source: examples with a text.
      vocabulary: the bundled one if None.
      text_key: the text's feature in the source.
      keep: which examples of the source belong to the task; all if None.
      shuffle_buffer: documents among which the next is drawn; they are made before the first one.
    """
    steps = [
        functools.partial(seqio.preprocessors.rekey, key_map={'targets': text_key}),
        _drop_blank,
        seqio.CacheDatasetPlaceholder(),
        functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=False),
    ]
    if keep:
        steps.insert(0, lambda dataset: dataset.filter(keep))
    feature = seqio.Feature(vocabulary or vocabularies.bundled(), add_eos=False)
    return seqio.TaskRegistry.add(
        name,
        source,
        preprocessors=steps,
        output_features={'targets': feature},
        shuffle_buffer_size=shuffle_buffer,
    )


def _drop_blank(dataset: tf.data.Dataset) -> tf.data.Dataset:
    return dataset.filter(lambda example: tf.strings.strip(example['targets']) != '')
