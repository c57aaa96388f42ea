"""Our models beside transformers': the same files and tokens; logits, loss and gradients."""
# SPDX-License-Identifier: Apache-2.0

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from t5x_lite.errors import ConfigError  # noqa: F401  for the tests of families
from t5x_lite.interop import architectures, families, hugging_face, transfer
from t5x_lite.model import presets, transformer

REASON = "the reference is not installed: pip install '.[test-hf]'"
torch = pytest.importorskip('torch', reason=REASON)
transformers = pytest.importorskip('transformers', reason=REASON)


family = families.find


class Ours(NamedTuple):
    """A folder's model: its source, its module tree and its arrays by path."""

    source: hugging_face.Source
    heads: dict
    graph: object
    arrays: dict

    def model(self, arrays):
        return nnx.merge(self.graph, unflatten_dict(arrays, sep='/'))


def save(model, folder, spread: float = 0.05, seed: int = 0):
    """Writes a transformers model with every parameter moved: a swapped scale or bias shows."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    model.eval()
    model.save_pretrained(folder)
    return model


def load(folder) -> Ours:
    """The folder as `t5x-lite ckpt import` reads it, strictly."""
    source = hugging_face.open_folder(folder)
    config, heads = source.family.to_model(source.fields), hugging_face.heads_of(source)
    abstract = jax.eval_shape(lambda: transformer.build(config, heads))
    graph, state = nnx.split(abstract)
    like = flatten_dict(nnx.to_pure_dict(state), sep='/')
    plan = hugging_face.plan(source, config, heads, {path: x.shape for path, x in like.items()})
    assert plan.fresh == [] and hugging_face.unknown(source, plan.unread) == []
    return Ours(source, heads, graph, dict(transfer.load(plan.loaded, source.tensors, like)))


def tokens(vocab: int, lengths=(11, 7, 1), width: int = 11, seed: int = 1, least: int = 3):
    """Random ids [rows, width] and their mask: rows of those lengths, padded at the end."""
    rng = np.random.default_rng(seed)
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int32)
    return rng.integers(least, vocab, mask.shape) * mask, mask


def pair(vocab: int, width: int = 11, eos: int | None = None):
    """(target ids, their mask, all of transformers' inputs, our decoder's hidden states of a model)
    of ragged rows; with `eos`, inputs begin with it: transformers' classifiers look there.
    """
    ids, mask = tokens(vocab, lengths=(width, width - 4, 1), width=width)
    outs, out_mask = tokens(vocab, lengths=(9, 1, 5), width=11, seed=3)
    if eos is not None:
        ids = np.where(ids == eos, eos + 1, ids)
        ids[:, 0] = eos
    names = ('input_ids', 'attention_mask', 'decoder_input_ids', 'decoder_attention_mask')
    inputs = dict(zip(names, map(torch.tensor, (ids, mask, outs, out_mask)), strict=True))

    def hidden(model):
        memory = model.encode(ids, segments=mask)
        return model.decode(outs, segments=out_mask, memory=memory, memory_segments=mask)[0]

    return outs, out_mask, inputs, hidden


def targets(shape, classes: int, mask=None, seed: int = 2):
    """Random classes of that shape, and weights: the mask, or 1 everywhere."""
    chosen = np.random.default_rng(seed).integers(0, classes, shape)
    return chosen, np.ones(chosen.shape, np.float32) if mask is None else np.float32(mask)


def compare(ours: Ours, theirs, forward, reference, classes, weights, tolerance=5e-5):
    """Asserts equal logits, cross-entropy and gradients, as shares of their largest value.

    Args:
      forward: (our model) -> logits [..., C].
      reference: (their model) -> logits of the same shape.
      classes, weights: targets [...] and their weights; logits of weight 0 are not compared.
    """
    theirs.zero_grad()
    logits = reference(theirs)
    nll = torch.nn.functional.cross_entropy(
        logits.flatten(0, -2), torch.tensor(classes).flatten(), reduction='none'
    )
    loss = (nll * torch.tensor(weights).flatten()).sum() / float(weights.sum())
    loss.backward()

    def our_loss(arrays):
        logits = forward(ours.model(arrays))
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), classes[..., None], -1)[..., 0]
        return -(picked * weights).sum() / weights.sum(), logits

    both = jax.jit(jax.value_and_grad(our_loss, has_aux=True))
    (our_value, our_logits), gradients = both(ours.arrays)
    scored = weights[..., None] > 0
    near('logits', our_logits * scored, logits.detach().numpy() * scored, tolerance)
    near('loss', our_value, loss.item(), tolerance)
    same_gradients(ours, theirs, gradients, tolerance)


def same_gradients(ours: Ours, theirs, gradients, tolerance) -> None:
    """Every gradient beside that of the parameter of its name, by the tables that write files."""
    config = ours.source.family.to_model(ours.source.fields)
    chosen = architectures.chosen_weights(ours.source.family, config, ours.heads)
    written = transfer.outgoing(chosen, gradients, config.vocab)
    reference = {name: p.grad for name, p in theirs.named_parameters()}
    if type(theirs).__name__ == ours.source.family.bare:
        reference |= {ours.source.family.prefix + name: g for name, g in reference.items()}
    largest = max(float(g.abs().max()) for g in reference.values() if g is not None)
    compared = 0
    for name in written.shapes:
        gradient = reference[name]
        if gradient is not None:
            near(name, written.read(name), gradient.numpy(), tolerance, scale=largest)
            compared += 1
    assert compared >= len(written.shapes) - 2, 'too few parameters have a gradient'


def round_trip(ours: Ours, theirs, folder) -> None:
    """Asserts that transformers loads what we write, bit for bit, and that we read it back so."""
    folder.mkdir(parents=True, exist_ok=True)
    config = ours.source.family.to_model(ours.source.fields)
    hugging_face.write_folder(folder, config, ours.heads, ours.arrays)
    back, told = type(theirs).from_pretrained(folder, output_loading_info=True)
    assert not any(told.values()), told
    own = architectures.family_of(config, ours.heads)
    if own is ours.source.family:  # else one that describes the same model: T5 1.1 for a small mT5
        assert back.config.architectures == [type(theirs).__name__]
    expected = theirs.state_dict()
    for name, value in back.state_dict().items():
        assert torch.equal(value, expected[name]), name
    back.config.pad_token_id = theirs.config.pad_token_id  # no part of an architecture
    ids, mask = tokens(config.vocab)
    ids[:, 0] = theirs.config.eos_token_id or 3  # where transformers' classifiers look
    inputs = dict(input_ids=ids, attention_mask=mask)
    if config.encoder_layers and config.decoder_layers:
        inputs |= dict(decoder_input_ids=ids[:, ::-1].copy())
    inputs = {name: torch.tensor(x) for name, x in inputs.items()}
    with torch.no_grad():
        assert torch.equal(scores(back.eval()(**inputs)), scores(theirs(**inputs)))
    again = load(folder)
    assert again.source.family is own and again.heads == ours.heads
    assert again.arrays.keys() == ours.arrays.keys()
    for path, array in again.arrays.items():
        assert np.array_equal(array, ours.arrays[path]), path


def scores(out):
    """What a transformers model says: span scores side by side, logits, or hidden states."""
    names = ('logits', 'prediction_logits', 'pooler_output', 'last_hidden_state')
    if 'start_logits' in out:
        return torch.stack([out['start_logits'], out['end_logits']], -1)
    return next(out[name] for name in names if name in out)


def same_presets(model_type: str, start: str | tuple[str, ...]) -> None:
    """Asserts that presets of these names survive as fields, and that defaults can be read."""
    own = family(model_type)
    for name in presets.__all__:
        if name.startswith(start):
            model = getattr(presets, name)()
            back = own.to_model(own.to_fields(model))
            assert architectures.differences(back, model) == [], name
            assert architectures.family_of(model) is own, name
            read = transformers.AutoConfig.for_model(model_type, **own.to_fields(model))
            again = own.to_model(read.to_dict())
            assert architectures.differences(again, model) == [], name
    own.to_model(transformers.AutoConfig.for_model(model_type).to_dict())


def near(what: str, ours, theirs, tolerance: float, scale: float | None = None) -> None:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, what
    scale = float(np.abs(theirs).max()) if scale is None else scale
    worst = float(np.abs(ours - theirs).max())
    assert worst <= tolerance * max(scale, 1e-9), f'{what}: off by {worst} of {scale}'
