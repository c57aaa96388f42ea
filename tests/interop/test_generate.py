"""What is generated is what transformers' generate gives: greedy, beams, ragged prompts."""
# SPDX-License-Identifier: Apache-2.0

import jax
import numpy as np
import pytest
import reference
import test_bart
import test_gpt2
import test_t5
from reference import torch, transformers

from t5x_lite.model import decode
from t5x_lite.model.sampling import GREEDY, Beam

LENGTH, EOS = 9, 2


def gpt2(vocab):
    sizes = test_gpt2.SIZES | dict(vocab_size=vocab, pad_token_id=0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))


def t5(vocab):
    sizes = test_t5.SIZES | test_t5.GATED | dict(vocab_size=vocab)
    sizes |= dict(decoder_start_token_id=0, eos_token_id=EOS)
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, pad_token_id=0))


def bart(vocab):
    sizes = test_bart.SIZES | dict(vocab_size=vocab)
    sizes |= dict(decoder_start_token_id=1, eos_token_id=EOS, pad_token_id=0)
    config = transformers.BartConfig(**sizes, forced_eos_token_id=None)
    return transformers.BartForConditionalGeneration(config)


def llama(vocab):
    sizes = dict(vocab_size=vocab, hidden_size=32, intermediate_size=48, num_hidden_layers=2)
    sizes |= dict(num_attention_heads=4, num_key_value_heads=2, eos_token_id=EOS, pad_token_id=0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))


MODELS = dict(gpt2=gpt2, llama=llama, t5=t5, bart=bart)
STARTS = dict(t5=0, bart=1)


def both(kind, vocab, folder):
    """Our model, theirs, and what a decoder begins with."""
    theirs = reference.save(MODELS[kind](vocab), folder, spread=0.3)
    ours = reference.load(folder)
    return ours.model(ours.arrays), theirs, STARTS.get(kind)


def generated(model, start, ids, mask, how):
    if start is None:
        return decode.generate(model, ids, LENGTH, how, eos=EOS, segments=mask)
    memory = model.encode(ids, segments=mask)
    firsts = np.full((len(ids), 1), start)
    known = dict(memory=memory, memory_segments=mask)
    return decode.generate(model, firsts, LENGTH, how, eos=EOS, **known)


BEAM = dict(num_beams=4, num_return_sequences=3, early_stopping='never')


@pytest.mark.parametrize('kind', MODELS)
@pytest.mark.parametrize(
    'how, vocab, settings',
    [
        (GREEDY, 99, {}),
        # Of 12 tokens, so that many end. transformers lets what was cut off come before what ended,
        # if it scores better: it is left out. It divides by length ** penalty: here by nothing.
        (Beam(size=4, alpha=0.0, returned=3), 12, BEAM | dict(length_penalty=0.0)),
    ],
)
def test_same_tokens_and_scores(kind, how, vocab, settings, tmp_path):
    model, theirs, start = both(kind, vocab, tmp_path)
    ids, mask = reference.tokens(vocab, lengths=(11, 6, 2))
    if start is None:  # prompts end together
        ids, mask = ids[:, ::-1].copy(), mask[:, ::-1].copy()
    found = jax.jit(generated, static_argnums=(1, 4))(model, start, ids, mask, how)
    out = theirs.generate(
        torch.tensor(ids),
        attention_mask=torch.tensor(mask),
        do_sample=False,
        max_new_tokens=LENGTH,
        output_scores=True,
        return_dict_in_generate=True,
        **settings,
    )
    skip = ids.shape[1] if start is None else 1
    expected = out.sequences[:, skip:].numpy().reshape(len(ids), -1, out.sequences.shape[1] - skip)
    totals = out.sequences_scores.numpy().reshape(len(ids), -1) if 'num_beams' in settings else None
    compared = 0
    for row, tokens in enumerate(np.asarray(found.tokens_BxSxL)):
        ours, whole = [ended(x) for x in tokens], [ended(x) for x in expected[row]]
        places = [i for i, (_, ends) in enumerate(whole) if ends or not ours[0][1]]
        assert [whole[i] for i in places] == ours[: len(places)]
        if totals is not None:
            scores = found.scores_BxS[row, : len(places)]
            np.testing.assert_allclose(scores, totals[row, places], rtol=1e-4)
        compared += len(places)
    assert compared >= (1 if 'num_beams' in settings else 3)


def ended(tokens) -> tuple[list[int], bool]:
    """What was written up to EOS, and whether EOS is there."""
    tokens = tokens.tolist()
    return (tokens[: tokens.index(EOS) + 1], True) if EOS in tokens else (tokens, False)
