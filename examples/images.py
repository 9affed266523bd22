"""Real NVP for images: bits per dimension, samples, reconstructions, interpolations and coarse latents.

    python examples/images.py                                      # scikit-learn's digits, 8 x 8 pixels of 17 values
    python examples/images.py --data mnist.npz --key x_train       # your uint8 images [N, H, W] or [N, H, W, C]
    python examples/images.py --resume                             # continue training, with the same arguments

A random tenth of the images, at least 192, is held out. The model is saved after each epoch. Training stops after
--epochs or --minutes. The learning rate falls to zero over --epochs. The order of the images depends only on the seed
and the epoch, so a training that was stopped and resumed gives the same model as an uninterrupted one. Without
--resume, training starts from the beginning, and an existing model in --out is renamed to images_before.keras.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits

from common import at_least_one, keras, nvp, tf, write_json

ROWS, COLUMNS = 8, 12  # size of each grid of images


def read_images(path: Path | None, key: str | None, seed: int) -> tuple[np.ndarray, int]:
    """Returns uint8 images `[N, H, W, C]` in random order and the number of values that a pixel can have."""
    if path is None:
        images, num_levels = load_digits().images.astype(np.uint8), 17
    else:
        with np.load(path) as arrays:
            key = key or arrays.files[0]
            if key not in arrays.files:
                raise ValueError(f"{path} has no array {key!r}; its arrays are {', '.join(arrays.files)}")
            images, num_levels = arrays[key], 256
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or images.dtype != np.uint8:
        raise ValueError(f"images must be uint8 [N, H, W] or [N, H, W, C], got {images.dtype} {list(images.shape)}")
    return images[np.random.default_rng(seed).permutation(len(images))], num_levels


def batches(images: np.ndarray, size: int, flips: bool, epochs: range, seed: int) -> tf.data.Dataset:
    """Shuffled batches of all `epochs`, one epoch after the other. `flips` mirrors each image with probability 1/2.

    An incomplete last batch is dropped, because its batch statistics would be noisier.
    """
    dataset = tf.data.Dataset.from_tensor_slices(images)

    def epoch(number):
        data = dataset.shuffle(len(images), seed=seed + number)
        if flips:
            data = data.enumerate().map(
                lambda index, image: tf.image.stateless_random_flip_left_right(image, [seed + number, index])
            )
        return data.batch(size, drop_remainder=True)

    return tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(epoch).prefetch(2)


class Checkpoint(keras.callbacks.Callback):
    """Saves the model and prints bits per dimension after each epoch. Stops training after `minutes`."""

    def __init__(self, file: Path, record: Path, minutes: float, arguments: dict, history: list[dict]):
        super().__init__()
        self.file, self.record, self.seconds = file, record, 60 * minutes
        self.arguments, self.history = arguments, history

    def on_train_begin(self, logs=None):
        self._start = time.monotonic() - (self.history[-1]["seconds"] if self.history else 0.0)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch_start = time.monotonic()

    def on_test_begin(self, logs=None):
        self._epoch_end = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        seconds = time.monotonic() - self._start
        steps = int(self.model.optimizer.iterations)
        step_seconds = (self._epoch_end - self._epoch_start) * (epoch + 1) / steps
        times = {"epoch": epoch + 1, "steps": steps, "seconds": seconds, "seconds_per_step": step_seconds}
        self.history.append(times | {name: float(logs[name]) for name in logs})
        print(
            f"epoch {epoch + 1:4}  {steps:6} steps  {seconds:6.0f} s  bits/dim {logs['bits_per_dim']:.3f}, "
            f"held out {logs['val_bits_per_dim']:.3f}  ({1e3 * step_seconds:.0f} ms per step)",
            flush=True,
        )
        write_json({"arguments": self.arguments, "epochs": self.history}, self.record)
        # If the process stops before this line, the record has an epoch too many. `run` drops it when it resumes.
        self.model.save(self.file)
        self.model.stop_training = seconds > self.seconds


def draw(pictures: dict[str, np.ndarray], num_levels: int, history: list[dict], path: Path) -> None:
    """Plots each `[ROWS * COLUMNS, H, W, C]` as a grid with a title, and bits per dimension against epochs."""
    figure = plt.figure(figsize=(13, 8), layout="constrained")
    parts = figure.subfigures(2, 3).flat
    for part, (title, images) in zip(parts, pictures.items(), strict=False):
        nvp.plots.images(images, num_levels=num_levels, num_columns=COLUMNS, figure=part)
        part.suptitle(title)
    losses = {name: [epoch[name] for epoch in history] for name in ("loss", "bits_per_dim", "val_bits_per_dim")}
    nvp.plots.history(losses, ax=parts[-1].add_subplot())
    figure.savefig(path)
    plt.close(figure)


def interpolations(bijector, images: np.ndarray) -> np.ndarray:
    """Interpolates between ROWS pairs of images in COLUMNS steps, along arcs between their latents."""
    latents = bijector.inverse(images[: 2 * ROWS]).numpy()
    angle = np.linspace(0.0, np.pi / 2, COLUMNS)[np.newaxis, :, np.newaxis]
    between = np.cos(angle) * latents[:ROWS, np.newaxis] + np.sin(angle) * latents[ROWS:, np.newaxis]
    return bijector.forward(between.reshape(ROWS * COLUMNS, -1)).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help=".npz file (default: scikit-learn's digits)")
    parser.add_argument("--key", help="name of the array in the file (default: the first)")
    parser.add_argument("--levels", type=int, help="number of values of a pixel (default: 256; 17 for the digits)")
    parser.add_argument("--scales", type=int, default=2, help="number of scales (default: %(default)s)")
    parser.add_argument("--blocks", type=int, default=2, help="residual blocks per network (default: %(default)s)")
    parser.add_argument(
        "--channels", type=int, default=16, help="channels of the first scale's networks (default: %(default)s)"
    )
    parser.add_argument(
        "--epochs", type=int, default=20, help="total number of epochs, over all starts (default: %(default)s)"
    )
    parser.add_argument("--minutes", type=float, default=math.inf, help="time limit, over all starts (default: none)")
    parser.add_argument("--batch-size", type=at_least_one, default=64, help="images per step (default: %(default)s)")
    parser.add_argument("--flips", action="store_true", help="mirror images left to right at random")
    parser.add_argument("--resume", action="store_true", help="continue the training in --out")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to write to (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, noise and order (default: %(default)s)")
    options = parser.parse_args()
    keras.utils.set_random_seed(options.seed + 1)  # With seed 0 here, `shuffle` rejects tensors as seeds.
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        run(options)
    except (OSError, ValueError) as error:
        sys.exit(f"images.py: {error}")


def run(options: argparse.Namespace) -> None:
    images, num_levels = read_images(options.data, options.key, options.seed)
    num_levels = options.levels or num_levels
    held_out = max(2 * ROWS * COLUMNS, len(images) // 10)
    if len(images) < held_out + options.batch_size:
        raise ValueError(
            f"{len(images)} images are too few: {held_out} are held out and a batch needs {options.batch_size}"
        )
    train, test = images[:-held_out], images[-held_out:]
    model, record = options.out / "images.keras", options.out / "images.json"
    names = "key", "levels", "scales", "blocks", "channels", "batch_size", "flips", "seed"
    arguments = {"data": str(options.data)} | {name: vars(options)[name] for name in names}
    history: list[dict] = []
    if options.resume and model.is_file():
        found = json.loads(record.read_text())
        for name, value in arguments.items():
            if found["arguments"][name] != value:
                was = found["arguments"][name]
                raise ValueError(f"--resume needs the same arguments: {name} is {value}, but was {was}")
        flow = keras.models.load_model(model)
        history = found["epochs"][: flow.num_epochs_done]
    else:
        record.unlink(missing_ok=True)
        if model.is_file():
            model.replace(model.with_name("images_before.keras"))
        flow = nvp.ImageRealNVP(
            images.shape[1:],
            num_scales=options.scales,
            num_blocks=options.blocks,
            num_channels=options.channels,
            num_levels=num_levels,
            seed=options.seed,
        )
        flow.compile()
    weights = sum(math.prod(variable.shape) for variable in flow.trainable_variables)
    print(f"{len(train)} training images {list(images.shape[1:])}, {len(test)} held out; {weights:,} weights")
    time_is_over = bool(history) and history[-1]["seconds"] > 60 * options.minutes
    epochs = range(len(history), len(history) if time_is_over else max(len(history), options.epochs))
    flow.fit(
        batches(train, options.batch_size, options.flips, epochs, options.seed),
        steps_per_epoch=len(train) // options.batch_size,
        validation_data=test,
        initial_epoch=epochs.start,
        epochs=epochs.stop,
        callbacks=[Checkpoint(model, record, options.minutes, arguments, history)],
        shuffle=False,  # The dataset shuffles the images.
        verbose=0,
    )
    bits = flow.evaluate(test, verbose=0, return_dict=True)["bits_per_dim"]
    print(f"held out: {bits:.3f} bits/dim")
    samples = flow.sample(ROWS * COLUMNS, seed=options.seed).numpy()  # This call traces; the next is timed.
    start = time.monotonic()
    flow.sample(64, seed=options.seed).numpy()
    print(f"64 samples: {time.monotonic() - start:.2f} s")

    bijector, number = flow.bijector(), ROWS * COLUMNS
    real = test[:number].astype(np.float32) + 0.5
    latent = bijector.inverse(real)
    reconstructed = bijector.forward(latent).numpy()
    print(f"largest error of reconstructed pixels ({num_levels} values): {np.abs(reconstructed - real).max():.1e}")
    coarsest = latent.shape[-1] // 2 ** (options.scales - 1)  # number of latents of the last scale
    coarse = tf.concat([tf.zeros_like(latent[:, :-coarsest]), latent[:, -coarsest:]], axis=-1)
    draw(
        {
            "held-out images": real,
            f"samples, {bits:.2f} bits/dim": samples,
            "reconstructed held-out images": reconstructed,
            "interpolations between held-out images": interpolations(bijector, real),
            f"held-out images from their coarsest {coarsest} latents": bijector.forward(coarse).numpy(),
        },
        num_levels,
        history,
        options.out / "images.png",
    )
    flow.export(options.out / "images_export")
    print(f"\nPicture: {options.out / 'images.png'}\nModel:   {model}")
    print(f"Export:  {options.out / 'images_export'}")


if __name__ == "__main__":
    main()
