"""The bundled corpus and the classic ones: prepared, read, split over hosts, refused."""
# SPDX-License-Identifier: Apache-2.0

import hashlib

import numpy as np
import pytest
import seqio
import tensorflow_datasets as tfds
from etils import epath

from t5x_lite.data import corpora, tfds_builder, vocabularies
from t5x_lite.data.tasks import c4, corpus_en_pd, wikipedia  # noqa: F401
from t5x_lite.data.text_task import PreparedTfds
from t5x_lite.errors import ConfigError

VERSION_DIR = 'corpus_en_pd/1.0.0'


@pytest.fixture(scope='module', autouse=True)
def data_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp('data') / 'not yet there'
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('T5X_LITE_DATA_DIR', str(path))
        yield path


@pytest.fixture
def tfds_data_dir(tmp_path):
    """A folder that `--tfds_data_dir` names for the length of a test."""
    seqio.set_tfds_data_dir_override(str(tmp_path))
    yield tmp_path
    seqio.set_tfds_data_dir_override(None)
    for name in ('c4_en', 'wikipedia_en'):
        seqio.get_mixture_or_task(name).source.tfds_dataset.override_data_dir(None)


def read(name, split, **kwargs):
    dataset = seqio.get_mixture_or_task(name).get_dataset(None, split, shuffle=False, **kwargs)
    return [example['targets'] for example in dataset.as_numpy_iterator()]


def texts(name, split):
    vocabulary = vocabularies.bundled()
    return sorted(vocabulary.decode(ids.tolist()) for ids in read(name, split))


def file_digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_data_is_prepared_when_first_read_not_before(data_dir):
    task = seqio.get_mixture_or_task('corpus_en_pd')
    repr(task.source)
    assert not data_dir.exists()
    assert task.num_input_examples('train') == 334
    assert (data_dir / VERSION_DIR / 'dataset_info.json').exists()


@pytest.mark.parametrize(('split', 'count'), [('train', 334), ('validation', 18), ('test', 22)])
def test_task_gives_whole_documents_without_eos(split, count):
    ids = read('corpus_en_pd', split)
    documents = [document['text'] for document in corpora.documents(corpora.split_path(split))]
    assert len(ids) == count
    assert all(row.dtype == np.int32 and 1 not in row for row in ids)
    assert texts('corpus_en_pd', split) == sorted(documents)


def test_the_two_sources_make_up_the_corpus():
    parts = texts('austen', 'test') + texts('sotu', 'test')
    assert sorted(parts) == texts('corpus_en_pd', 'test')
    assert len(texts('sotu', 'test')) == 8


def test_mixture_rates_are_the_train_documents():
    mixture = seqio.get_mixture_or_task('corpus_en_pd_mix')
    for task in mixture.tasks:
        assert mixture.get_rate(task) == len(read(task.name, 'train'))


def test_hosts_divide_a_split_among_them():
    parts = [
        read('corpus_en_pd', 'validation', shard_info=seqio.ShardInfo(host, 4)) for host in range(4)
    ]
    assert all(parts)
    together = sorted(ids.tobytes() for part in parts for ids in part)
    assert together == sorted(ids.tobytes() for ids in read('corpus_en_pd', 'validation'))


def test_preparing_twice_gives_the_same_files(tmp_path, data_dir):
    tfds_builder.prepare(tmp_path)
    digests = file_digests(tmp_path / VERSION_DIR)
    assert len(digests) == 3 * tfds_builder.SHARDS + 2
    assert digests == file_digests(tfds_builder.prepare(data_dir) / VERSION_DIR)


def test_process_that_comes_second_uses_the_copy_of_the_first(tmp_path):
    final = tfds_builder.prepare(tmp_path) / VERSION_DIR
    before = [(path, path.stat().st_ino) for path in sorted(final.iterdir())]
    tfds_builder._write(tmp_path, final)  # what a process does that saw no copy when it looked
    assert [(path, path.stat().st_ino) for path in sorted(final.iterdir())] == before
    assert [path.name for path in tmp_path.iterdir()] == ['corpus_en_pd']


def test_bundled_corpus_is_read_from_its_own_dir_whatever_tfds_data_dir_is(tfds_data_dir):
    assert len(read('corpus_en_pd', 'validation')) == 18
    assert not list(tfds_data_dir.iterdir())


@pytest.mark.parametrize('content', [b'', b'not xz'])
def test_damaged_corpus_is_named_and_nothing_is_left(tmp_path, monkeypatch, content):
    for split in corpora.SPLITS:
        (tmp_path / f'{split}.jsonl.xz').write_bytes(content)
    monkeypatch.setattr(corpora, 'CORPUS_EN_PD', tmp_path)
    with pytest.raises(ConfigError, match=r'corpus file .*\.jsonl\.xz'):
        tfds_builder.prepare(tmp_path / 'data')
    assert not list((tmp_path / 'data').glob('**/*.tfrecord*'))


def test_data_dir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'file').write_text('in the way')
    with pytest.raises(ConfigError, match=r'data dir .*file.*set T5X_LITE_DATA_DIR'):
        tfds_builder.prepare(tmp_path / 'file')


C4_PAGE = {
    'text': 'A page.\n\nMore of it.',
    'url': 'https://example.org',
    'timestamp': '2019-04-25T12:00:00Z',
    'content-type': 'text/plain',
    'content-length': '20',
}


def write_tfds(data_dir, dataset, config, version, splits):
    """A TFDS folder such as the real dataset's, with `splits` as its examples."""

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = dataset
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = (tfds.core.BuilderConfig(name=config),)
        code_path = epath.Path(__file__)

        def _info(self):
            keys = splits['train'][0]
            features = {key: tfds.features.Text() for key in keys}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {name: self._generate_examples(rows) for name, rows in splits.items()}

        def _generate_examples(self, rows):
            yield from enumerate(rows)

    builder = Tiny(data_dir=str(data_dir), config=config)
    download = tfds.download.DownloadConfig(try_download_gcs=False)
    builder.download_and_prepare(download_config=download)


def test_c4_is_read_from_tfds_data_dir_without_its_blank_pages(tfds_data_dir):
    blank = [C4_PAGE | {'text': text} for text in ('', ' \n\t ')]
    splits = {'train': [C4_PAGE, *blank], 'validation': [C4_PAGE | {'text': 'Held out.'}]}
    write_tfds(tfds_data_dir, 'c4', 'en', '3.0.1', splits)
    assert texts('c4_en', 'train') == ['A page.\n\nMore of it.']
    assert texts('c4_en', 'validation') == ['Held out.']


def test_wikipedia_holds_out_its_last_hundredth(tfds_data_dir):
    articles = [{'title': f'Title {i}', 'text': f'Article {i}.'} for i in range(200)]
    write_tfds(tfds_data_dir, 'wikipedia', '20230601.en', '1.0.0', {'train': articles})
    train, validation = (texts('wikipedia_en', 'train'), texts('wikipedia_en', 'validation'))
    assert (len(train), len(validation)) == (198, 2)
    assert sorted(train + validation) == sorted(article['text'] for article in articles)


def test_dataset_that_is_not_there_is_refused_with_dir_name_and_versions(tfds_data_dir):
    source = PreparedTfds('c4/en:3.0.1', splits={'train': 'train'})
    message = (
        f'tfds_data_dir={tfds_data_dir}: c4/en:3.0.1 .* versions there: none; .*--tfds_data_dir'
    )
    with pytest.raises(ConfigError, match=message):
        source.list_shards('train')
    (tfds_data_dir / 'c4/en/3.1.0').mkdir(parents=True)
    (tfds_data_dir / 'c4/en/3.1.0/dataset_info.json').write_text('{}')
    with pytest.raises(ConfigError, match=r'versions there: 3\.1\.0'):
        source.get_dataset('train')


def test_missing_data_dir_is_refused(tfds_data_dir):
    tfds_data_dir.rmdir()
    source = PreparedTfds('wikipedia/20230601.en:1.0.0', splits={'train': 'train'})
    with pytest.raises(ConfigError, match=f'tfds_data_dir={tfds_data_dir}: wikipedia'):
        source.num_input_examples('train')


def test_without_tfds_data_dir_the_folder_of_tfds_is_looked_in():
    source = PreparedTfds('c4/en:0.0.1', splits={'train': 'train'})
    with pytest.raises(ConfigError, match=f'tfds_data_dir={tfds.core.constants.DATA_DIR}'):
        source.list_shards('train')
