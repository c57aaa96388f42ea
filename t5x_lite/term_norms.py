"""The norm of each term's gradient, for a look now and then."""
# SPDX-License-Identifier: Apache-2.0

import jax
import optax

from t5x_lite import frozen, sharding, step
from t5x_lite.experiment import Experiment


def make_term_norms(experiment: Experiment, mesh):
    """Jitted (TrainState, {stream: Batch}) -> {name: norm of the gradient of that loss, weighted}.

    It costs a step for each term: for a look now and then.
    """
    model_of_params = step.model_of(experiment)

    def norms(state, batches):
        with sharding.active(mesh, experiment.rules):
            weights, out = step.loss_weights(experiment, state.step), {}
            starts = frozen.starts(experiment, state.params)
            trained, fixed = frozen.split(state.params, starts)
            model_of_trained = lambda trained: model_of_params(frozen.join(trained, fixed, starts))
            for name, weight in weights.items():
                alone = {**dict.fromkeys(weights, 0.0), name: weight}
                args = (trained, batches, state.step, alone)
                grads = step.gradients(experiment, model_of_trained, *args)[2]
                out[name.removesuffix('loss') + 'grad_norm'] = optax.tree.norm(grads)
            return out

    return jax.jit(norms, out_shardings=sharding.whole(mesh))
