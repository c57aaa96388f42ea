"""Ways to fine-tune on topics of Wikipedia's leads, several seeds: accuracy, memory, time."""
# SPDX-License-Identifier: Apache-2.0

import argparse
import dataclasses
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from experiments.recipes import wiki_topics as recipe
from t5x_lite.evaluation.predict import PredictEval
from t5x_lite.experiment import Checkpoints, Experiment
from t5x_lite.objectives.distillation import Teacher, distilled
from t5x_lite.optim import Adafactor, AdamW
from t5x_lite.schedules import Cosine, SlantedTriangular
from t5x_lite.tuning.lora import Lora
from t5x_lite.tuning.presets import (
    GradualUnfreezing,
    HeadOnly,
    LastLayers,
    LayerDecay,
    discriminative,
)
from t5x_lite.tuning.prompt import Prompt
from t5x_lite.warm_start import from_checkpoint

EPOCH = 60  # 1,900 texts in batches of 32


def rate(peak: float) -> AdamW:
    """The recipe's optimizer at another peak rate."""
    return AdamW(
        learning_rate=Cosine(peak=peak, warmup=48, steps=recipe.STEPS, floor=0.0),
        weight_decay=0.1,
        clip=1.0,
    )


GRADUAL = AdamW(learning_rate=SlantedTriangular(peak=2e-3, steps=recipe.STEPS), clip=1.0)
NORMS = (('/scale$|^heads/', True), ('.*', False))  # the model has no biases for BitFit
PROMPT = Adafactor(learning_rate=0.3, scale_by_param=False, weight_decay=1e-5)

DISTILLED = 'from scratch, distilled from full'
METHODS = {
    'from scratch': dict(init=None, optimizer=rate(1e-3)),
    'full': {},
    DISTILLED: dict(init=None, optimizer=rate(1e-3)),
    'layer decay 0.8': dict(rate_factors=LayerDecay(decay=0.8), optimizer=rate(1.5e-3)),
    'gradual unfreezing': dict(
        trainable=GradualUnfreezing(every=EPOCH // 2),
        rate_factors=discriminative(),
        optimizer=GRADUAL,
    ),
    'last 2 layers': dict(trainable=LastLayers(2), optimizer=rate(1.5e-3)),
    'LoRA, rank 8': dict(adapt=Lora(rank=8, alpha=8.0), optimizer=rate(3e-3)),
    'norms and head': dict(trainable=NORMS, optimizer=rate(3e-3)),
    'prompt of 20, head': dict(adapt=Prompt(length=20, heads=True), optimizer=PROMPT),
    'head alone': dict(trainable=HeadOnly(), optimizer=rate(3e-3)),
}


def taught(teacher: Path) -> dict:
    """A model from scratch that learns the scores of the fine-tuned one beside the labels."""
    stream = recipe.experiment.streams['topics']
    (head,) = (term.head for term in stream.objective.terms.values())
    own = Teacher(
        model=recipe.experiment.model,
        heads={'classifier': head},
        init=from_checkpoint(str(teacher)),
    )
    objective = distilled(objective=stream.objective, teacher=own, logits=1.0)
    return {'topics': dataclasses.replace(stream, objective=objective)}


def experiment(method: str, seed: int, weights: str, to: Path) -> Experiment:
    """The recipe by one method; the test split is scored once, behind the last step."""
    changes = dict(init=from_checkpoint(weights)) | METHODS[method]
    if method == DISTILLED:
        changes['streams'] = taught(to / f'full_{seed}')
    return dataclasses.replace(
        recipe.experiment,
        seed=seed,
        evals={'scores': PredictEval(every=recipe.STEPS, split='test')},
        checkpoint=Checkpoints(every=recipe.STEPS),
        **changes,
    )


def train_one(method: str, seed: int, weights: str, folder: Path) -> dict:
    """Trains in this process; what it took and what came of it."""
    import jax

    from t5x_lite import frozen, step, train

    own = experiment(method, seed, weights, folder.parent)
    state = jax.eval_shape(lambda: step.init_state(own))
    learned, _ = frozen.split(state.params, frozen.starts(own, state.params))
    size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    began = time.monotonic()
    values = train.train(own, folder)
    return dict(
        method=method,
        seed=seed,
        accuracy=next(
            v for k, v in values.items() if re.fullmatch('eval/topics/(.*/)?accuracy', k)
        ),
        trained=size(learned),
        optimizer_numbers=size(state.opt_state),
        minutes=(time.monotonic() - began) / 60,
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def main() -> None:
    options = parse()
    if options.one:
        method, seed = options.one
        folder = options.to / f'{method.replace(" ", "_")}_{seed}'
        record = train_one(method, int(seed), options.weights, folder)
        (folder / 'result.json').write_text(json.dumps(record))
        return
    found = []
    for seed in range(options.seeds):
        for method in options.methods:
            found.append(run(method, seed, options))
            print(json.dumps(found[-1]), flush=True)
    record = dict(command=f'python -m benchmarks.finetuning {" ".join(sys.argv[1:])}')
    record |= dict(device=platform.processor() or platform.machine(), cores=os.cpu_count())
    record |= dict(date=time.strftime('%Y-%m-%d'), steps=recipe.STEPS, runs=found)
    if options.record:
        options.record.write_text(json.dumps(record, indent=1) + '\n')
    print(*table(found), sep='\n')


def run(method: str, seed: int, options) -> dict:
    """One run in a process of its own, so that its peak memory is its own; not again if done."""
    folder = options.to / f'{method.replace(" ", "_")}_{seed}'
    if not (folder / 'result.json').exists():
        command = [sys.executable, '-m', 'benchmarks.finetuning', '--weights', options.weights]
        command += ['--to', str(options.to), '--one', method, str(seed)]
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(folder.with_suffix('.txt'), 'w') as output:
            subprocess.run(command, check=True, stdout=output, stderr=subprocess.STDOUT)
    return json.loads((folder / 'result.json').read_text())


def table(found: list[dict]) -> list[str]:
    """Markdown: the mean over seeds, and from the least to the most accurate."""
    lines = ['| method | trained | optimizer | peak MiB | minutes | accuracy | of the seeds |']
    lines += ['|---|---|---|---|---|---|---|']
    for method in dict.fromkeys(x['method'] for x in found):
        runs = [x for x in found if x['method'] == method]
        mean = lambda key, runs=runs: statistics.mean(x[key] for x in runs)
        each = sorted(x['accuracy'] for x in runs)
        lines.append(
            f'| {method} | {runs[0]["trained"]:,} | {runs[0]["optimizer_numbers"]:,} | '
            f'{mean("peak_mib"):,.0f} | {mean("minutes"):.1f} | {mean("accuracy"):.3f} | '
            f'{each[0]:.3f} to {each[-1]:.3f} |'
        )
    return lines


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.finetuning', description=__doc__)
    parser.add_argument('--weights', default='runs/mlm', help='a run of recipes/mlm_mini.py')
    parser.add_argument('--to', type=Path, default=Path('runs/finetuning'), help='for the runs')
    parser.add_argument('--seeds', type=int, default=3, help='default: %(default)s')
    parser.add_argument('--methods', nargs='+', default=list(METHODS), choices=METHODS)
    parser.add_argument('--record', type=Path, help='a JSON file for all results')
    parser.add_argument('--one', nargs=2, metavar=('METHOD', 'SEED'), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == '__main__':
    main()
