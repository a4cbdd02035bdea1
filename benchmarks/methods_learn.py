"""Does each method learn? Linear probe and kNN on Tiny ImageNet, against no training.

    python benchmarks/methods_learn.py --raw_dir=tiny-imagenet-200 --out=learn \
        [--methods=simclr,barlow,swav] [--seeds=0,1,2] [--epochs=6] [--pixels=48]

Pretrains on the training images, without labels; fits a linear probe to their features
(its L2 strength is chosen on a tenth of them that is held out) and tests it on the
validation images. The untrained encoder of the same seed is treated alike. Differences
are paired by image and pooled over seeds; their interval is a bootstrap over images.
Any classes of Tiny ImageNet will do. Started again, it goes on where it stopped.
"""

import argparse
import csv
from pathlib import Path

import jax
import numpy as np

from jax_mrissl import __version__
from jax_mrissl.augment.recipes import simclr_views
from jax_mrissl.configs import base
from jax_mrissl.core.run_dir import read_json, write_json
from jax_mrissl.data.own import OwnFolder
from jax_mrissl.data.pipeline import resident
from jax_mrissl.data.preparation import prepare_dataset
from jax_mrissl.data.prepared import open_prepared
from jax_mrissl.metrics.linear import fit_linear_probe
from jax_mrissl.metrics.probes import knn_predict
from jax_mrissl.stages.stage import Stage
from jax_mrissl.tasks.from_config import read_experiment
from jax_mrissl.tasks.pretrain import (
    evaluation_policy,
    pretrain_identity,
    run_pretrain,
)
from jax_mrissl.tasks.programs import RowProgram, embedding
from jax_mrissl.tasks.watch import ProbeSet
from jax_mrissl.train.checkpoint import Lineage
from jax_mrissl.train.start import CHECKPOINTS, Start
from jax_mrissl.train.state import initial_state

# For a few thousand small images: views of the Lightly library's CIFAR-10 benchmark,
# whose colours are half as strong and which are not blurred (crops of at least a fifth,
# as in MoCo), two for every method. What differs by method was chosen by the log loss
# on the held-out tenth, over 3 or 4 epochs.
STRENGTH = 0.5
SETTINGS = {
    'simclr': dict(temperature=0.2),
    'barlow': dict(projector_widths=(128, 128, 128), redundancy_weight=0.02),
    # With the paper's epsilon of 0.05 the codes of a fresh network are all but even:
    # there is nothing to predict, and the first epoch undoes what a fresh network has.
    'swav': dict(
        prototypes=256, hidden_width=512, epsilon=0.01, freeze_prototypes_epochs=0.5
    ),
    'vicreg': dict(projector_widths=(512, 512, 512)),
}
# Of AdamW, for 256 images. For SimCLR three times less learned more slowly.
RATES = {'simclr': 2.4e-3, 'barlow': 2e-3, 'swav': 2.4e-3, 'vicreg': 2e-3}
# A correlation over 64 images is too noisy to be decorrelated.
BATCHES = {'simclr': 64, 'barlow': 128, 'swav': 64, 'vicreg': 128}


def prepare(raw_dir, out):
    """Prepares the training images, and the validation images by their table."""
    data_dir = out / 'data'
    wnids = sorted(p.name for p in (raw_dir / 'train').iterdir() if p.is_dir())
    table = out / 'val.csv'
    lines = (raw_dir / 'val' / 'val_annotations.txt').read_text().splitlines()
    with open(table, 'w', newline='') as file:
        rows = csv.writer(file)
        rows.writerow(['file', 'label'])
        for name, wnid, *_ in (line.split('\t') for line in lines):
            if wnid in wnids and (raw_dir / 'val' / 'images' / name).exists():
                rows.writerow([name, wnid])
    for name, folder, how in (
        ('learn_train', raw_dir / 'train', dict(classes=tuple(wnids))),
        ('learn_test', raw_dir / 'val' / 'images', dict(table=table)),
    ):
        own = OwnFolder(name=name, **how)
        prepare_dataset('folder', [str(folder)], data_dir, canvas=64, own=own)
    return [open_prepared(data_dir, n) for n in ('learn_train', 'learn_test')]


def plans(method, seed, arguments, data_dir):
    """Gives the stage's plan and what it shares with others."""
    config = base.pretrained('learn', method, 'learn_train')
    config.seed, config.data_dir = seed, str(data_dir)
    section = config.pretrain
    section.update(image_size=arguments.pixels, epochs=arguments.epochs)
    section.batch_size = BATCHES[method]
    section.watch.update(probe_every_epochs=1)
    section.checkpoint_every_epochs = 1
    section.method.update(SETTINGS[method])
    section.optimizer = dict(
        name='adamw', rate_per_256=RATES[method], warmup_epochs=0.5, weight_decay=1e-4
    )
    views = simclr_views(strength=STRENGTH)
    for view in views:
        view[0]['scale'] = (0.2, 1.0)
    section.views = [
        [op for op in view if op['name'] != 'gaussian_blur'] for view in views
    ]
    experiment = read_experiment(config)
    return experiment.chain[0], experiment.common


def halves(labels):
    """Gives rows to fit to and a tenth to choose by, alike for all runs."""
    order = np.random.default_rng(0).permutation(len(labels))
    return order[len(order) // 10 :], order[: len(order) // 10]


def encoders(plan, common, start):
    """Gives the fresh encoder of the seed, and the trained one."""
    objective = plan.build_objective(common)
    rule = plan.build_optimizer().transform
    init_key, _ = jax.random.split(jax.random.key(common.seed))
    shape = (plan.image_size, plan.image_size, 3)
    fresh = jax.jit(
        lambda key: initial_state(
            objective, objective.optimize(rule, lambda _: 0.0), key, shape
        )
    )(init_key)
    return objective.encoder, {'untrained': fresh, 'trained': start.give_to(fresh)}


def measure(plan, common, start, train, test, rows):
    """Gives, by encoder, whether each test image is told right, by probe and kNN."""
    encoder, states = encoders(plan, common, start)
    program = RowProgram(embedding(encoder), evaluation_policy(plan), 250)
    fit, held = rows
    classes = int(train.labels.max()) + 1
    found = {}
    for name, state in states.items():
        x, y = (
            program(
                state.params,
                state.model_state,
                jax.device_put(resident(some)),
                np.arange(len(some)),
            )
            for some in (train, test)
        )
        probe = fit_linear_probe(
            x[fit],
            train.labels[fit],
            x[held],
            train.labels[held],
            train.groups[held],
            classes=classes,
            l2_strengths=(10.0, 100.0, 1e3, 1e4),
        )
        votes = knn_predict(x, train.labels, y, classes=classes, neighbours=20)
        found[name] = {
            'linear': (probe.logits(y).argmax(1) == test.labels).astype(int).tolist(),
            'knn': (votes.argmax(1) == test.labels).astype(int).tolist(),
            'validation_log_loss': probe.validation_log_loss,
        }
    return found


def interval(differences):
    """Gives mean and 95 % interval of paired differences, [seeds, images]."""
    by_image = np.mean(differences, axis=0)
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(by_image), (10_000, len(by_image)))
    low, high = np.quantile(by_image[draws].mean(axis=1), [0.025, 0.975])
    return f'{by_image.mean():+.3f} [{low:+.3f}, {high:+.3f}]'


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--raw_dir', type=Path, required=True)
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--methods', default='simclr,barlow,swav')
    parser.add_argument('--seeds', default='0,1,2')
    parser.add_argument('--epochs', type=int, default=6)
    parser.add_argument('--pixels', type=int, default=48)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    train, test = prepare(arguments.raw_dir, arguments.out)
    assert train.card['classes'] == test.card['classes']
    rows = halves(train.labels)
    probes = ProbeSet(train, train.labels, *rows, tuple(train.card['classes']))
    methods = arguments.methods.split(',')
    seeds = [int(seed) for seed in arguments.seeds.split(',')]
    results = {method: [] for method in methods}
    for seed in seeds:
        for method in methods:
            plan, common = plans(method, seed, arguments, arguments.out / 'data')
            params = pretrain_identity(plan, common, train)
            stage = Stage('pretrain', params)
            folder = arguments.out / f'{method}-{seed}-{stage.address[:8]}'
            done = folder / 'probe.json'
            if not done.exists():
                run_pretrain(
                    plan,
                    common,
                    train,
                    folder,
                    Lineage(stage.address, params, (), __version__),
                    start_from=None,
                    probe_set=probes,
                    what=f'{method}, seed {seed}',
                )
                start = Start(folder / CHECKPOINTS, stage.address, None)
                write_json(done, measure(plan, common, start, train, test, rows))
            results[method].append(read_json(done))
    for method, runs in results.items():
        for probe in ('linear', 'knn'):
            right = {
                name: np.array([run[name][probe] for run in runs])
                for name in ('untrained', 'trained')
            }
            accuracies = {
                name: ' '.join(f'{x:.3f}' for x in values.mean(axis=1))
                for name, values in right.items()
            }
            print(
                f'{method:8} {probe:7} untrained {accuracies["untrained"]}   trained '
                f'{accuracies["trained"]}   difference '
                f'{interval(right["trained"] - right["untrained"])}'
            )


if __name__ == '__main__':
    main()
