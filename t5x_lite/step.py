"""TrainState, and the jitted train and eval steps."""
# SPDX-License-Identifier: Apache-2.0

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from t5x_lite import frozen, microbatches, sharding
from t5x_lite.experiment import Experiment
from t5x_lite.metrics import Mean, Means
from t5x_lite.microbatches import Losses
from t5x_lite.model import transformer
from t5x_lite.tuning import adapters, updates


class TrainState(NamedTuple):
    """All that training changes. Randomness is fold_in(seed, step): there is no key to save."""

    step: Any  # int32 scalar: updates done
    params: Any  # nested dict of float32 arrays; kernels of a frozen base may be int8
    opt_state: Any


def build(experiment: Experiment):
    """The experiment's model with fresh weights from its seed, adapted if it says so."""
    model = transformer.build(experiment.model, experiment.heads, experiment.seed)
    if experiment.adapt is not None:
        experiment.adapt.apply(model, adapters.key(experiment))
    return model


def abstract_model(experiment: Experiment):
    """The model's shapes and axes, without memory."""
    return jax.eval_shape(lambda: build(experiment))


def abstract_params(experiment: Experiment) -> dict:
    """The parameters' shapes, nested as they train."""
    return nnx.to_pure_dict(nnx.state(abstract_model(experiment)))


def model_of(experiment: Experiment):
    """The function params -> Model: the experiment's architecture around those weights."""
    graph = nnx.graphdef(abstract_model(experiment))
    return lambda params: nnx.merge(graph, params)


def init_state(experiment: Experiment) -> TrainState:
    """Fresh weights from the experiment's seed, and the optimizer's empty state."""
    params = nnx.to_pure_dict(nnx.state(build(experiment)))
    trained, _ = frozen.split(params, frozen.starts(experiment, params))
    opt_state = updates.transformation(experiment, params).init(trained)
    return TrainState(jnp.int32(0), params, opt_state)


def state_shardings(experiment: Experiment, mesh) -> TrainState:
    """A NamedSharding per array; an optimizer array lies like the parameter it belongs to."""
    params = sharding.shardings(abstract_model(experiment), mesh, experiment.rules)
    shapes = jax.eval_shape(lambda: init_state(experiment))
    starts = frozen.starts(experiment, shapes.params)
    trained, where = (frozen.split(x, starts)[0] for x in (shapes.params, params))
    opt_state = sharding.like_params(shapes.opt_state, trained, where, mesh)
    return TrainState(sharding.whole(mesh), params, opt_state)


def make_init(experiment: Experiment, mesh):
    """A jitted function () -> TrainState whose arrays are made where they live."""
    return jax.jit(lambda: init_state(experiment), out_shardings=state_shardings(experiment, mesh))


def start_from(experiment: Experiment, mesh, weights) -> TrainState:
    """The TrainState of step 0 with weights from elsewhere (`warm_start.Opened`).

    Nothing is held twice but what is drawn and loaded in part.
    """
    like = {
        p: _loadable(x) for p, x in frozen.flat(abstract_state(experiment, mesh).params).items()
    }

    def draw():
        params = frozen.flat(init_state(experiment).params)
        return {path: params[path] for path in weights.fresh}

    drawn = jax.jit(draw, out_shardings={path: like[path].sharding for path in weights.fresh})()
    loaded = weights.load(like)
    for path, (dim, size) in weights.parts.items():
        drawn[path] = _begun_with(loaded.pop(path), drawn[path], dim, size)
    where = state_shardings(experiment, mesh)
    params = adapters.begun(experiment, frozen.unflat({**loaded, **drawn}), where.params)
    trained, _ = frozen.split(params, frozen.starts(experiment, params))
    begin = updates.transformation(experiment, params).init
    opt_state = jax.jit(begin, out_shardings=where.opt_state)(trained)
    return TrainState(jax.device_put(jnp.int32(0), where.step), params, opt_state)


def _loadable(like: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """How an array is read: as float32, also where the model keeps int8 (tuning/int8_base.py)."""
    return jax.ShapeDtypeStruct(like.shape, jnp.float32, sharding=like.sharding)


@functools.partial(jax.jit, static_argnums=(2, 3), donate_argnums=1)
def _begun_with(loaded, drawn, dim: int, size: int):
    """The first `size` along a dimension as loaded, the rest as drawn."""
    return jnp.where(jax.lax.broadcasted_iota(int, drawn.shape, dim) < size, loaded, drawn)


def batch_means(experiment: Experiment, model, batches, key=None) -> dict[str, Mean]:
    """Every stream's and term's means, by the names that metrics.jsonl shows.

    `clm/loss` for a stream with one term, `text/mlm/loss` where a stream has several.
    """
    means, vectors = means_apart(experiment, model, batches, key)
    return means | means_together(experiment, model, vectors, batches)


def means_apart(experiment: Experiment, model, batches, key=None) -> tuple[dict, dict]:
    """Means of the terms that look at each row by itself, and {stream: {term: vectors}} of others.

    Vectors are float arrays [B, ...] of each row, which the batchwide terms compare.
    """
    means, vectors = {}, {}
    for i, (name, batch) in enumerate(sorted(batches.items())):
        objective = experiment.streams[name].objective
        stream_key = None if key is None else jax.random.fold_in(key, i)
        found, vectors[name] = objective.apart(model, batch, stream_key)
        means |= _named(objective, name, found)
    return means, vectors


def means_together(experiment: Experiment, model, vectors, batches) -> dict[str, Mean]:
    """Means of the batchwide terms, from the vectors and the batches that they are of."""
    out = {}
    for name, batch in batches.items():
        objective = experiment.streams[name].objective
        out |= _named(objective, name, objective.together(model, vectors[name], batch))
    return out


def _named(objective, stream: str, means_of_terms) -> dict[str, Mean]:
    prefix_of = objective.prefixes(stream)
    return {
        f'{prefix_of[term]}/{metric}': mean
        for term, means in means_of_terms.items()
        for metric, mean in means.items()
    }


def loss_weights(experiment: Experiment, step) -> dict[str, Any]:
    """stream.weight * term.weight for each term's loss, by its name in `batch_means`."""
    value = lambda weight: weight(step) if callable(weight) else weight
    out = {}
    for name, stream in experiment.streams.items():
        for term, prefix in stream.objective.prefixes(name).items():
            weight = stream.objective.terms[term].weight
            out[f'{prefix}/loss'] = value(stream.weight) * value(weight)
    return out


def gradients(experiment: Experiment, model_of_params, params, batches, step, weights=None):
    """The weighted loss, all means, and gradients: of one batch, or of its microbatches summed.

    `weights` of losses by name are those of the step if None.
    """
    losses = Losses(
        apart=lambda params, *rest: means_apart(experiment, model_of_params(params), *rest),
        together=lambda params, *rest: means_together(experiment, model_of_params(params), *rest),
        weights=loss_weights(experiment, step) if weights is None else weights,
    )
    key = jax.random.fold_in(jax.random.key(experiment.seed), step)
    if experiment.microbatches > 1:
        return microbatches.gradients(losses, params, batches, key, experiment.microbatches)
    grad = jax.value_and_grad(losses.whole, has_aux=True)
    (total, means), grads = grad(params, batches, key)
    return total, means, grads


def bounded(model) -> dict:
    """The model's parameters, those declared with `clip=(low, high)` kept inside their bounds.

    For temperatures: a bound in the forward pass would stop the gradient that leads back inside.
    """

    def inside(param):
        bounds = param.get_metadata().get('clip')
        return param if bounds is None else param.replace(jnp.clip(param[...], *bounds))

    state = nnx.state(model)
    is_param = lambda x: isinstance(x, nnx.Variable)
    return nnx.to_pure_dict(jax.tree.map(inside, state, is_leaf=is_param))


def sums(experiment: Experiment, means, step) -> dict[str, Mean]:
    """How the loss is added up: weights by name, and the loss of each stream with several terms.

    Nothing of a single loss whose weight is a number.
    """
    weights, one, out = loss_weights(experiment, step), jnp.float32(1.0), {}
    if len(weights) == 1 and all(isinstance(x, int | float) for x in weights.values()):
        return out
    for name, stream in experiment.streams.items():
        parts = [f'{prefix}/loss' for prefix in stream.objective.prefixes(name).values()]
        for loss in parts:
            out[loss.removesuffix('loss') + 'weight'] = Mean(jnp.float32(weights[loss]), one)
        if len(parts) > 1:
            ratio = lambda mean: mean.total / jnp.maximum(mean.count, 1.0)
            total = sum(weights[loss] * ratio(means[loss]) for loss in parts)
            out[f'{name}/loss'] = Mean(total, one)
    return out


def train_step(experiment: Experiment, model_of_params, state: TrainState, batches: Mapping):
    """One update: (TrainState, {stream: Batch}) -> (TrainState, {name: Mean}).

    The means are each stream's own, and `loss` (the weighted sum), `grad_norm`, `learning_rate`;
    where several losses are added, each one's `weight` and each stream's `loss` too.
    """
    starts = frozen.starts(experiment, state.params)
    trained, fixed = frozen.split(state.params, starts)
    model_of_trained = lambda trained: model_of_params(frozen.join(trained, fixed, starts))
    total, means, grads = gradients(experiment, model_of_trained, trained, batches, state.step)
    optimizer = updates.transformation(experiment, state.params)
    changes, opt_state = optimizer.update(grads, state.opt_state, trained)
    moved = bounded(model_of_trained(optax.apply_updates(trained, changes)))
    params = frozen.join(frozen.split(moved, starts)[0], fixed, starts)
    one = jnp.float32(1.0)
    means |= sums(experiment, means, state.step)
    means |= {
        'loss': Mean(total, one),
        'grad_norm': Mean(optax.tree.norm(grads), one),
        'learning_rate': Mean(jnp.float32(experiment.optimizer.schedule(state.step)), one),
    }
    return TrainState(state.step + 1, params, opt_state), means


def make_train_step(experiment: Experiment, mesh):
    """The jitted `train_step` on a mesh; the state it is given is donated, the means are packed."""
    model_of_params = model_of(experiment)
    where = state_shardings(experiment, mesh)

    def step(state, batches):
        with sharding.active(mesh, experiment.rules):
            state, means = train_step(experiment, model_of_params, state, batches)
            return state, Means.pack(means)

    rows, whole = sharding.batch_sharding(mesh, experiment.rules), sharding.whole(mesh)
    return jax.jit(step, in_shardings=(where, rows), out_shardings=(where, whole), donate_argnums=0)


def make_eval_step(experiment: Experiment, mesh):
    """Jitted (params, {stream: Batch}) -> {name: Mean}, without dropout."""
    model_of_params = model_of(experiment)

    def step(params, batches):
        with sharding.active(mesh, experiment.rules):
            return batch_means(experiment, model_of_params(params), batches)

    return jax.jit(step, out_shardings=sharding.whole(mesh))


def abstract_batches(experiment: Experiment, mesh) -> dict:
    """Shapes of one step's batches, to compile before any data is open."""
    rows = sharding.batch_sharding(mesh, experiment.rules)
    return {
        name: {
            array: jax.ShapeDtypeStruct(shape, dtype, sharding=rows)
            for array, (shape, dtype) in stream.spec().items()
        }
        for name, stream in experiment.streams.items()
    }


def abstract_state(experiment: Experiment, mesh) -> TrainState:
    """The TrainState's shapes with their shardings, to compile or to restore into."""
    shapes = jax.eval_shape(lambda: init_state(experiment))
    return jax.tree.map(
        lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where),
        shapes,
        state_shardings(experiment, mesh),
    )
