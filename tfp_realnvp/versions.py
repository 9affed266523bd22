"""What the supported releases of Keras 3 do differently; the rest of the package is the same for all of them."""

import keras
import tensorflow as tf
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer
from keras.src.losses import loss

__all__ = ["KEEPS_UNFILLED_EXECUTIONS", "UNSCALES_LOSSES", "hold"]

# Without it, Keras loses the steps of a last execution that the data do not fill, so no execution has several.
KEEPS_UNFILLED_EXECUTIONS = hasattr(TensorFlowTrainer(), "unrolled_steps_per_execution")

# Without it, Keras reports the loss of several replicas divided by their number.
UNSCALES_LOSSES = hasattr(loss, "unscale_loss_for_distribution")


def hold(wrapper: keras.Variable, variable: tf.Variable) -> keras.Variable:
    """`wrapper`, which was made of `variable`, around `variable` itself: the first releases put a copy there."""
    wrapper._value = variable
    return wrapper
