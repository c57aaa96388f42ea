"""Texts that try tokenizers: random Unicode from a seed, twelve languages, the bundled corpus."""
# SPDX-License-Identifier: Apache-2.0

import random

from t5x_lite.data import corpora

LANGUAGES = {
    'en': "It's half past ten, isn't it? We'll leave at 10:30 - Mr. Smith won't wait!",
    'de': 'Die Straße ist heute gesperrt; größere Fahrzeuge müssen übers Feld fahren.',
    'fr': "L'été dernier, où étiez-vous ? « Chez ma sœur », répondit-elle.",
    'es': '¿Cuánto cuesta el billete? ¡Mañana será más caro, señor Muñoz!',
    'pl': 'Zażółć gęślą jaźń, a potem zjedz źdźbło trawy.',
    'tr': 'İstanbul’da yağmur yağıyor; ışıklar söndü mü?',
    'ru': 'Ёжик в тумане искал своего друга, медвежонка.',
    'el': 'Το πρωί πίνω καφέ με γάλα και διαβάζω τα νέα.',
    'ar': 'ذهبَ الولدُ إلى المدرسةِ مبكّرًا هذا الصباح.',
    'hi': 'मुझे हिन्दी में लिखी हुई किताबें पढ़ना अच्छा लगता है।',
    'zh': '今天下雨，所以我们在家里看书。明天如果天晴，就去爬山！',
    'ja': '東京タワーに行ったことがありますか。とても高いですよ。',
}
"""Written for these tests."""

ODD = (
    '',
    ' ',
    'no newline at the end',
    '\n\n  two  spaces \n',
    '\t\r\n\x00\x0b',
    'a\u00a0b \u200b\u2028\ufeff\u3000\u0085',
    '漢字 🎉 e\u0301 é \u0378 \U0010ffff \ufffd',
    'ＡΩ ﬁ ½ ǅ ß ẞ',
    'x' * 100 + ' ' + 'y' * 101 + ' ' + 'word' * 3000,
    '👩‍👩‍👧‍👦🏳️‍🌈',
    '##a # ##',
    'Ġthe ▁the <0x41>',
)

_SPACES = ' \t\n\r\x0b\x0c\x85\xa0\u1680\u2003\u2028\u2029\u200b\u3000'


def corpus(split: str = 'validation') -> list[str]:
    """The documents of a split of the bundled corpus."""
    return list(corpora.texts(corpora.split_path(split)))


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Strings of up to 60 characters of all of Unicode but surrogates; one in 100 is long."""
    draw = random.Random(seed)
    return [
        ''.join(_character(draw) for _ in range(draw.randrange(60) * (1 + 9 * (i % 100 == 99))))
        for i in range(count)
    ]


def _character(draw: random.Random) -> str:
    kind = draw.random()
    if kind < 0.4:
        return chr(draw.randrange(32, 127))
    if kind < 0.5:
        return draw.choice(_SPACES)
    if kind < 0.55:
        return chr(draw.randrange(0x300, 0x370))  # combining accents
    if kind < 0.6:
        return chr(draw.randrange(32))
    if kind < 0.7:
        return chr(draw.randrange(0x4E00, 0xA000))
    code = draw.randrange(0x10000) if kind < 0.9 else draw.randrange(0x110000)
    return _character(draw) if 0xD800 <= code < 0xE000 else chr(code)


def training_texts() -> list[str]:
    """What the tests' vocabularies are trained on."""
    return [*corpus(), *LANGUAGES.values()]


def trying_texts() -> list[str]:
    """What references are compared on."""
    return [*random_texts(10_000), *corpus(), *LANGUAGES.values(), *ODD]
