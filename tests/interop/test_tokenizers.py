"""Vocabularies against transformers and the published algorithms: the same ids, the same text."""
# SPDX-License-Identifier: Apache-2.0

import functools
import io
import json
import unicodedata

import pytest
import seqio
import texts

from t5x_lite.data import hf_vocabulary, train_tokenizer, vocabularies

transformers = pytest.importorskip(
    'transformers', reason='transformers is the reference; pip install transformers'
)
tokenizers = pytest.importorskip('tokenizers', reason="pip install 't5x_lite[hf]'")

TRYING = texts.trying_texts()
SPECIAL = ('A [MASK] b', '[CLS]x[SEP]', 'a <mask> b', 'a<s>b</s> <pad>', 'x<|endoftext|> y')
BERT = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')
ROBERTA = ('<s>', '<pad>', '</s>', '<unk>', '<mask>')


@pytest.fixture(scope='module')
def training():
    return texts.training_texts()


def vocab_txt(folder, training, lowercase):
    """A file as BERT's: five special tokens and unused ones, pieces, and rare characters."""
    ids = train_tokenizer.wordpiece(training, 3000, lowercase).get_vocab()
    special = {*train_tokenizer.FIRST, *train_tokenizer.LAST}
    pieces = [p for p in sorted(ids, key=ids.get) if p not in special]
    normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lowercase)
    rare = sorted(set(normalizer.normalize_str(''.join(texts.random_texts(1000, seed=1)))))
    pieces += [prefix + char for char in rare if not char.isspace() for prefix in ('', '##')]
    pieces = dict.fromkeys([*BERT, '[unused0]', '[unused1]', *pieces])
    (folder / 'vocab.txt').write_text('\n'.join(pieces) + '\n', encoding='utf-8')
    return folder / 'vocab.txt'


@pytest.fixture(scope='module', params=['cased', 'uncased'])
def bert(request, tmp_path_factory, training):
    """A folder with BERT's files, and whether it is lower-cased."""
    folder = tmp_path_factory.mktemp(request.param)
    lowercase = request.param == 'uncased'
    vocab_txt(folder, training, lowercase)
    (folder / 'tokenizer_config.json').write_text(json.dumps({'do_lower_case': lowercase}))
    return folder, lowercase


@pytest.fixture(scope='module')
def merged(training):
    """A trained byte-level BPE: its pieces without special tokens, and its merges."""
    model = json.loads(train_tokenizer.byte_bpe(training, 3000).to_str())['model']
    special = len(train_tokenizer.FIRST)
    pieces = [piece for piece, id in model['vocab'].items() if id >= special]
    return pieces, model['merges']


def bpe_files(folder, merged, before=(), after=()):
    pieces, merges = merged
    ids = {piece: i for i, piece in enumerate([*before, *pieces, *after])}
    (folder / 'vocab.json').write_text(json.dumps(ids))
    lines = [' '.join(pair) for pair in merges]
    (folder / 'merges.txt').write_text('\n'.join(['#version: 0.2', *lines, '']), encoding='utf-8')
    return ids


def assert_same(ours, reference, trying, decoding=True):
    expected = reference(trying, add_special_tokens=False).input_ids
    found = [list(ours.encode(text)) for text in trying]
    wrong = [ascii(text) for text, a, b in zip(trying, found, expected, strict=True) if a != b]
    assert not wrong, f'{len(wrong)} of {len(trying)}: {wrong[:3]}'
    if decoding:  # seqio's ends with EOS
        whole = [ids for ids in found if ours.eos_id not in ids]
        assert [ours.decode(ids) for ids in whole] == [reference.decode(ids) for ids in whole]


def assert_ids_agree(info, reference):
    for role in ('cls', 'sep', 'mask', 'bos', 'eos', 'unk'):
        assert getattr(info, role) == getattr(reference, f'{role}_token_id'), role
    if reference.pad_token_id is not None:
        assert info.pad == reference.pad_token_id
    assert info.size == len(reference)


def test_wordpiece_is_transformers_bert(bert):
    folder, lowercase = bert
    ours = hf_vocabulary.from_folder(folder)
    reference = transformers.BertTokenizer.from_pretrained(folder)
    assert reference.do_lower_case == lowercase
    assert_same(ours, reference, [*TRYING, *SPECIAL])
    assert_ids_agree(ours.info, reference)


def test_wordpiece_is_the_published_python_code_on_characters_that_python_knows(bert):
    folder, lowercase = bert
    ours = hf_vocabulary.from_folder(folder)
    reference = transformers.BertTokenizerLegacy(folder / 'vocab.txt', do_lower_case=lowercase)
    old = unicodedata.ucd_3_2_0  # two libraries' tables differ in newer characters

    def plain(text):
        # The Python code composes accents, which BERT's own and the library do not.
        same = (c for c in text if old.category(c) == unicodedata.category(c))
        kept = (c for c in same if c in '\t\n\r' or unicodedata.category(c)[0] != 'C')
        return unicodedata.normalize('NFC', ''.join(kept))

    trying = [plain(text) for text in TRYING]
    assert sum(map(len, trying)) > 300_000
    assert_same(ours, reference, trying, decoding=False)


def test_byte_bpe_is_transformers_gpt2(tmp_path, merged):
    ids = bpe_files(tmp_path, merged, after=['<|endoftext|>'])
    ours = hf_vocabulary.from_folder(tmp_path)
    reference = transformers.GPT2Tokenizer.from_pretrained(tmp_path)
    assert_same(ours, reference, [*TRYING, *SPECIAL])
    last = ids['<|endoftext|>']
    info = ours.info
    assert (info.bos, info.eos, info.pad, info.special.sum()) == (last, last, 0, 1)
    assert all(ours.decode(ours.encode(text)) == text for text in TRYING)
    saved = tmp_path / 'saved'  # with tokenizer.json and tokenizer_config.json
    reference.save_pretrained(saved)
    again = hf_vocabulary.from_folder(saved)
    assert_same(again, reference, [*TRYING[-100:], *SPECIAL])
    assert_ids_agree(again.info, reference)


def test_byte_bpe_is_transformers_roberta(tmp_path, merged):
    bpe_files(tmp_path, merged, before=ROBERTA[:4], after=['<mask>'])
    ours = hf_vocabulary.from_folder(tmp_path)
    reference = transformers.RobertaTokenizer.from_pretrained(tmp_path)
    assert_same(ours, reference, [*TRYING, *SPECIAL])
    assert_ids_agree(ours.info, reference)
    assert (ours.info.pad, ours.pad_id, ours.info.cls, ours.info.sep) == (1, 1, 0, 2)
    saved = tmp_path / 'saved'
    reference.save_pretrained(saved)
    again = hf_vocabulary.from_folder(saved)
    assert_same(again, reference, [*TRYING[-100:], *SPECIAL])
    assert_ids_agree(again.info, reference)


def test_byte_bpe_is_the_published_algorithm(tmp_path, merged):
    regex = pytest.importorskip('regex', reason="the published code's pattern needs regex")
    ids = bpe_files(tmp_path, merged, after=['<|endoftext|>'])
    ours = hf_vocabulary.byte_bpe(tmp_path / 'vocab.json', tmp_path / 'merges.txt')
    ranks = {tuple(pair): rank for rank, pair in enumerate(merged[1])}
    pattern = regex.compile(
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    )
    shown = {byte: char for char, byte in gpt2_bytes().items()}

    @functools.cache
    def merge(word):
        parts = list(word)
        while len(parts) > 1:
            pairs = list(zip(parts, parts[1:], strict=False))
            best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
            if best not in ranks:
                break
            merged, i = [], 0
            while i < len(parts):
                joined = tuple(parts[i : i + 2]) == best
                merged.append(''.join(best) if joined else parts[i])
                i += 1 + joined
            parts = merged
        return [ids[part] for part in parts]

    def encode(text):
        words = (''.join(shown[b] for b in word.encode()) for word in pattern.findall(text))
        return [id for word in words for id in merge(word)]

    trying = [*TRYING[:3000], *texts.corpus()[:3], *texts.LANGUAGES.values(), *texts.ODD]
    known = [text for text in trying if all(old_character(c) for c in text)]
    assert len(known) > 100
    assert [ours.encode(text) for text in known] == [encode(text) for text in known]


def gpt2_bytes():
    """The byte of each character, as the code that was published with GPT-2 has it."""
    codes = [*range(ord('!'), ord('~') + 1), *range(ord('¡'), ord('¬') + 1)]
    codes += range(ord('®'), ord('ÿ') + 1)
    chars, more = list(codes), 0
    for byte in range(256):
        if byte not in codes:
            codes.append(byte)
            chars.append(256 + more)
            more += 1
    return {chr(char): byte for char, byte in zip(chars, codes, strict=True)}


def old_character(char):
    return unicodedata.ucd_3_2_0.category(char) == unicodedata.category(char) != 'Cn'


@pytest.fixture(scope='module')
def t5(tmp_path_factory, training):
    """A folder with a SentencePiece model such as T5's."""
    import sentencepiece

    model = io.BytesIO()
    lines = (line for text in training for line in text.split('\n') if line)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_writer=model,
        vocab_size=3000,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    folder = tmp_path_factory.mktemp('t5')
    (folder / 'spiece.model').write_bytes(model.getvalue())
    config = {'tokenizer_class': 'T5Tokenizer', 'extra_ids': 100}
    (folder / 'tokenizer_config.json').write_text(json.dumps(config))
    return folder


def test_sentencepiece_is_transformers_sentencepiece_and_its_t5_on_paragraphs(t5):
    from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

    ours = hf_vocabulary.from_folder(t5)
    assert isinstance(ours, seqio.SentencePieceVocabulary)
    backend = SentencePieceBackend(
        vocab_file=str(t5 / 'spiece.model'), eos_token='</s>', unk_token='<unk>', pad_token='<pad>'
    )
    assert_same(ours, backend, TRYING, decoding=False)
    # transformers' T5 splits at white space before it normalizes, which differs in characters that
    # normalize to white space; and it adds scores in double precision: SentencePiece's single
    # precision runs out in texts of some thousand words.
    reference = transformers.T5Tokenizer.from_pretrained(t5)
    lines = [line for text in texts.corpus() for line in text.split('\n')]
    assert_same(ours, reference, [*lines, *texts.LANGUAGES.values()])
    info = vocabularies.describe(ours)
    assert (info.pad, info.eos, info.unk, info.size) == (0, 1, 2, len(reference))
    assert info.text(ours.encode('the house')) == 'the house'
    names = [f'<extra_id_{i}>' for i in range(100)]
    assert (
        list(info.sentinels) == reference.convert_tokens_to_ids(names) == [*range(3099, 2999, -1)]
    )


def test_tokenizer_json_of_t5_is_transformers_t5(t5, tmp_path):
    reference = transformers.T5Tokenizer.from_pretrained(t5)
    reference.save_pretrained(tmp_path)
    ours = hf_vocabulary.from_folder(tmp_path)
    assert_same(ours, reference, [*TRYING, 'a <extra_id_0> b <extra_id_99>.'])
    assert_ids_agree(ours.info, reference)
    assert list(ours.info.sentinels) == [*range(3099, 2999, -1)]
    assert ours.info.text(ours.encode('Hello, world')) == 'Hello, world'


def test_bytes_are_transformers_byt5(tmp_path):
    reference = transformers.ByT5Tokenizer()
    reference.save_pretrained(tmp_path)
    ours = hf_vocabulary.from_folder(tmp_path)
    assert isinstance(ours, seqio.ByteVocabulary)
    assert_same(ours, reference, TRYING, decoding=False)
    info = vocabularies.describe(ours)
    assert (info.pad, info.eos, info.unk, info.size) == (0, 1, 2, len(reference))


@pytest.mark.parametrize('kind', ['wordpiece', 'byte_bpe'])
def test_trained_folder_loads_in_transformers(tmp_path, training, kind):
    train_tokenizer.write(getattr(train_tokenizer, kind)(training, 5000), tmp_path)
    ours = hf_vocabulary.from_folder(tmp_path)
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert_same(ours, reference, [*TRYING[-1000:], 'a [MASK] [NLU] <extra_id_0></s>'])
    assert_ids_agree(ours.info, reference)
