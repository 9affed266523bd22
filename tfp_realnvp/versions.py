"""What the supported releases of Keras 3 do differently; the rest of the package is the same for all of them."""

import keras
import tensorflow as tf

__all__ = ["hold"]


def hold(wrapper: keras.Variable, variable: tf.Variable) -> keras.Variable:
    """`wrapper`, which was made of `variable`, around `variable` itself: the first releases put a copy there."""
    wrapper._value = variable
    return wrapper
