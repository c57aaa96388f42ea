"""Small TFDS folders with the features of real datasets, for tests."""
# SPDX-License-Identifier: Apache-2.0

import tensorflow_datasets as tfds
from etils import epath


def write(data_dir, dataset, config, version, features, splits) -> None:
    """A TFDS folder with `splits` as its examples; `config` None is a dataset without configs."""

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = dataset
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []
        code_path = epath.Path(__file__)

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {name: self._generate_examples(rows) for name, rows in splits.items()}

        def _generate_examples(self, rows):
            yield from enumerate(rows)

    builder = Tiny(data_dir=str(data_dir), **({'config': config} if config else {}))
    download = tfds.download.DownloadConfig(try_download_gcs=False)
    builder.download_and_prepare(download_config=download)
