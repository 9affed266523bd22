"""Real NVP of images: bits per dimension, samples, reconstructions, interpolations, and what coarse latents hold.

    python examples/images.py                                      # scikit-learn's digits, 8 x 8 pixels of 17 values
    python examples/images.py --data mnist.npz --key x_train       # your integer images [N, H, W] or [N, H, W, C]
    python examples/images.py --resume                             # go on after a stop, with the same arguments

The last tenth of the images is held out. After each epoch the model is saved; training stops at --minutes. Images come
in another order in each epoch, the same after a stop, so training that was stopped ends as if nobody had stopped it.
Without --resume all begins anew, and an earlier model in --out becomes images_before.keras.
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

ROWS, COLUMNS = 8, 12  # of each grid of images


def read_images(path: Path | None, key: str | None, seed: int) -> tuple[np.ndarray, int]:
    """(integer images `[N, H, W, C]` in random order, number of values of a pixel)."""
    if path is None:
        images, num_levels = load_digits().images.astype(np.uint8), 17
    else:
        with np.load(path) as arrays:
            key = key or arrays.files[0]
            if key not in arrays.files:
                raise ValueError(f"{path} has no array {key!r}, but {', '.join(arrays.files)}")
            images, num_levels = arrays[key], 256
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or images.dtype != np.uint8:
        raise ValueError(f"images must be uint8 [N, H, W] or [N, H, W, C], got {images.dtype} {list(images.shape)}")
    return images[np.random.default_rng(seed).permutation(len(images))], num_levels


def batches(images: np.ndarray, size: int, flips: bool, epochs: range, seed: int) -> tf.data.Dataset:
    """Batches of all these epochs, one after the other, and with flips, half of them with left and right swapped.

    A shorter last batch would have its own, noisier statistics, so there is none.
    """
    in_order = tf.data.Dataset.from_tensor_slices(images)

    def epoch(number):
        data = in_order.shuffle(len(images), seed=seed + number)
        if flips:
            data = data.enumerate().map(
                lambda index, image: tf.image.stateless_random_flip_left_right(image, [seed + number, index])
            )
        return data.batch(size, drop_remainder=True)

    return tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(epoch).prefetch(2)


class Checkpoint(keras.callbacks.Callback):
    """Saves after each epoch, prints bits per dimension, and stops when the time is over."""

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
            f"held out {logs['val_bits_per_dim']:.3f}  ({1e3 * step_seconds:.0f} ms a step)",
            flush=True,
        )
        write_json({"arguments": self.arguments, "epochs": self.history}, self.record)
        self.model.save(self.file)  # Where it stops before, the file tells how many epochs are done.
        self.model.stop_training = seconds > self.seconds


def grid(images: np.ndarray) -> np.ndarray:
    """ROWS x COLUMNS images as one picture, with a pixel between them."""
    framed = np.pad(images, [(0, 0), (1, 0), (1, 0), (0, 0)], constant_values=np.nan)
    framed = framed.reshape(-1, COLUMNS, *framed.shape[1:])
    return np.concatenate([np.concatenate(list(row), axis=1) for row in framed], axis=0)


def draw(pictures: dict[str, np.ndarray], num_levels: int, history: list[dict], path: Path) -> None:
    """Draws each `[ROWS * COLUMNS, H, W, C]` as a grid with a title, and how training went."""
    figure, axes = plt.subplots(2, 3, figsize=(15, 8), layout="constrained")
    for ax, (title, images) in zip(axes.flat, pictures.items(), strict=False):
        picture = np.clip(grid(images.astype(np.float32)) / num_levels, 0.0, 1.0)
        ax.imshow(picture[..., 0] if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=1)
        ax.set_title(title)
        ax.axis("off")
    for name, label in {"bits_per_dim": "training", "val_bits_per_dim": "held out"}.items():
        axes.flat[-1].plot([epoch["epoch"] for epoch in history], [epoch[name] for epoch in history], label=label)
    axes.flat[-1].set(title="bits/dim", xlabel="epoch")
    axes.flat[-1].xaxis.get_major_locator().set_params(integer=True)
    axes.flat[-1].legend()
    figure.savefig(path)
    plt.close(figure)


def interpolations(bijector, images: np.ndarray) -> np.ndarray:
    """COLUMNS steps from each of ROWS images to another, along arcs between their latents."""
    latents = bijector.inverse(images[: 2 * ROWS]).numpy()
    angle = np.linspace(0.0, np.pi / 2, COLUMNS)[np.newaxis, :, np.newaxis]
    between = np.cos(angle) * latents[:ROWS, np.newaxis] + np.sin(angle) * latents[ROWS:, np.newaxis]
    return bijector.forward(between.reshape(ROWS * COLUMNS, -1)).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a .npz file; scikit-learn's digits if not given")
    parser.add_argument("--key", help="name of the array in it; the first if not given")
    parser.add_argument("--levels", type=int, help="number of values of a pixel; 256, and 17 for the digits")
    parser.add_argument("--scales", type=int, default=2, help="scales of the model (default: %(default)s)")
    parser.add_argument("--blocks", type=int, default=2, help="residual blocks of each network (default: %(default)s)")
    parser.add_argument("--channels", type=int, default=16, help="width of the first scale (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="of all starts together (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="limit of all starts together (default: none)")
    parser.add_argument("--batch-size", type=at_least_one, default=64, help="(default: %(default)s)")
    parser.add_argument("--flips", action="store_true", help="swap left and right of half the images, at random")
    parser.add_argument("--resume", action="store_true", help="go on with what is in --out")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to write to (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, noise and order (default: %(default)s)")
    options = parser.parse_args()
    keras.utils.set_random_seed(options.seed + 1)  # With 0 here, `shuffle` would take no seed that is a tensor.
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
        raise ValueError(f"{len(images)} images are too few: {held_out} are held out, a batch has {options.batch_size}")
    train, test = images[:-held_out], images[-held_out:]
    model, record = options.out / "images.keras", options.out / "images.json"
    kept = "key", "levels", "scales", "blocks", "channels", "batch_size", "flips", "seed"
    arguments = {"data": str(options.data)} | {name: vars(options)[name] for name in kept}
    history: list[dict] = []
    if options.resume and model.is_file():
        found = json.loads(record.read_text())
        for name, value in arguments.items():
            if found["arguments"][name] != value:
                was = found["arguments"][name]
                raise ValueError(f"--resume wants the same arguments: {name} is {value}, but was {was}")
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
        flow.compile(keras.optimizers.Adam(1e-3, global_clipnorm=100.0))
    weights = sum(math.prod(variable.shape) for variable in flow.trainable_variables)
    print(f"{len(train)} images {list(images.shape[1:])} to train on, {len(test)} held out; {weights:,} weights")
    is_over = bool(history) and history[-1]["seconds"] > 60 * options.minutes
    epochs = range(len(history), len(history) if is_over else max(len(history), options.epochs))
    flow.fit(
        batches(train, options.batch_size, options.flips, epochs, options.seed),
        steps_per_epoch=len(train) // options.batch_size,
        validation_data=test,
        initial_epoch=epochs.start,
        epochs=epochs.stop,
        callbacks=[Checkpoint(model, record, options.minutes, arguments, history)],
        shuffle=False,  # The dataset does.
        verbose=0,
    )
    bits = flow.evaluate(test, verbose=0, return_dict=True)["bits_per_dim"]
    print(f"held out: {bits:.3f} bits/dim")
    samples = flow.sample(ROWS * COLUMNS, seed=options.seed).numpy()  # Traces, too, so that the next is timed alone.
    start = time.monotonic()
    flow.sample(64, seed=options.seed).numpy()
    print(f"64 samples: {time.monotonic() - start:.2f} s")

    bijector, number = flow.bijector(), ROWS * COLUMNS
    real = test[:number].astype(np.float32) + 0.5
    latent = bijector.inverse(real)
    restored = bijector.forward(latent).numpy()
    print(f"through the latent and back: within {np.abs(restored - real).max():.1e} of a pixel's {num_levels} values")
    coarsest = latent.shape[-1] // 2 ** (options.scales - 1)  # of the last scale
    coarse = tf.concat([tf.zeros_like(latent[:, :-coarsest]), latent[:, -coarsest:]], axis=-1)
    draw(
        {
            "held-out images": real,
            f"samples, {bits:.2f} bits/dim": samples,
            "held-out images through the latent and back": restored,
            "between two held-out images": interpolations(bijector, real),
            f"held-out images by their coarsest {coarsest} latents": bijector.forward(coarse).numpy(),
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
