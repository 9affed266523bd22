"""Wrong data, with the error for each. Errors name the rows that are not finite."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from helpers.flows import CONTEXT, X, conditional, flow, row_3, small_flow, with_context

MASKED = np.ma.masked_greater(X, np.sort(X[:, 0])[-3])
ONES = np.ones(20)


def batches(data) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(data).batch(5)


def empty_dataset() -> tf.data.Dataset:
    """An empty dataset whose length is not known in advance."""
    return batches(X).filter(lambda x: False)


def endless(data=X) -> tf.data.Dataset:
    return batches(data).repeat()


class EndlessPyDataset(keras.utils.PyDataset):
    num_batches = None

    def __getitem__(self, index):
        return (X[:5],)


LABELS = np.arange(20) % 2
CONTEXT_WITH_X = r'context must be passed with x, as \{"x": x, "context": context\}'
ONE_HOT = r"labels must be one-hot, as from keras.utils.to_categorical\(labels, 2\)"
MUST_END = r"must end, got an infinite dataset \(as from repeat\(\)\)"
MUST_BE_DATA = "must be an array, a dictionary of arrays or a tf.data.Dataset, got"

WRONG_DATA = {
    "adapt None": (lambda: flow().adapt(None), f"data {MUST_BE_DATA} None"),
    "adapt string": (lambda: flow().adapt("ab"), f"data {MUST_BE_DATA} 'ab'"),
    "adapt list": (lambda: flow().adapt(X.tolist()), rf"data {MUST_BE_DATA} \[\["),
    "adapt sparse": (lambda: flow().adapt(tf.sparse.from_dense(X)), "data must be an array"),
    "adapt ragged": (lambda: flow().adapt(tf.ragged.constant([[1.0], [1.0, 2.0]])), r"data must .*"),
    "adapt dates": (lambda: flow().adapt(X.astype("M8[s]")), "data must be an array of numbers, got dtype datetime64"),
    "adapt rank 1": (lambda: flow().adapt(X[:, 0]), r"data must have shape \[N, 2\], got \[20\]"),
    "adapt empty dictionary": (lambda: flow().adapt({}), r"data must have the keys .* got \[\]"),
    "adapt mixed keys": (lambda: flow().adapt({1: X, "a": X}), r"data must have the keys .* got \[.*1"),
    "adapt list in a dictionary": (lambda: flow().adapt({"x": X.tolist()}), r'data\["x"\] must be an array'),
    "adapt dataset of rows": (
        lambda: flow().adapt(batches(X).unbatch()),
        r"data must have shape .*\[2\]; N is the number of rows of a batch, so call batch\(batch_size\) on the dataset",
    ),
    "adapt dataset of strings": (lambda: flow().adapt(batches(X.astype(str))), "data must be an array of numbers"),
    "adapt dataset of complex": (lambda: flow().adapt(batches(X.astype(complex))), "data must be an array of numbers"),
    "adapt empty dataset": (lambda: flow().adapt(empty_dataset()), "data must have at least one row"),
    "adapt context with fewer rows, dataset": (
        lambda: conditional().adapt(tf.data.Dataset.from_tensors(with_context(CONTEXT[:5]))),
        "the same number of rows, got 20 and 5",
    ),
    "adapt NaN in a context": (
        lambda: conditional().adapt(with_context(row_3(np.nan))),
        r'data\["context"\] has a NaN or infinity in 1 of its 20 rows: 3',
    ),
    "adapt dataset of infinite rows": (lambda: flow().adapt(batches(row_3(np.inf))), r"batch 0 of data has .*: 3 "),
    "adapt values too large": (lambda: flow().adapt(row_3(1e39)), r"data has .* in 1 .*: 3 \(as float32\)"),
    "adapt context too large": (
        lambda: conditional().adapt(with_context(row_3(1e39))),
        r'data\["context"\] has a NaN or infinity in 1 of its 20 rows: 3 \(as float32\)',
    ),
    "adapt context too large, dataset": (
        lambda: conditional().adapt(batches(with_context(row_3(1e39)))),
        r'batch 0 of data\["context"\] has a NaN or infinity in 1 of its 5 rows: 3 \(as float32\)',
    ),
    "adapt context too narrow": (
        lambda: conditional().adapt(with_context(CONTEXT * [1.0, 1e-50])),
        r'data\["context"\] varies too little for float32 in the features \[1\]: .* dtype="float64"',
    ),
    "adapt context too narrow, dataset": (
        lambda: conditional().adapt(batches(with_context(CONTEXT * [1.0, 1e-50]))),
        r'data\["context"\] varies too little for float32 in the features \[1\]',
    ),
    "adapt context too wide": (
        lambda: conditional().adapt(with_context(row_3(3e38) - 3e38 * (row_3(0.0) != 0.0))),
        r'data\["context"\] spreads too far for float32 in the features \[0, 1\]',
    ),
    "adapt deviation below normal numbers": (
        lambda: flow().adapt(X * [1e-39, 1.0]),
        r"data varies too little for float32 in the features \[0\]",
    ),
    "adapt rows equal in float32": (lambda: flow().adapt(1e8 + 1e-3 * X), r"data varies too little .* \[0, 1\]"),
    "adapt constant scalars": (
        lambda: nvp.Flow(tfd.Normal(tf.Variable(0.0), 1.0)).adapt(ONES),
        "data is constant: drop",
    ),
    "adapt constant entry of a matrix": (
        lambda: nvp.Flow(tfd.Independent(tfd.Normal(tf.Variable(tf.zeros([2, 2])), 1.0), 2)).adapt(
            np.stack([X, np.stack([X[:, 0], ONES], axis=1)], axis=1)
        ),
        r"data is constant in the features \[\(1, 1\)\]: drop",
    ),
    "adapt context argument": (lambda: conditional().adapt(X, context=CONTEXT), CONTEXT_WITH_X),
    "adapt no context": (
        lambda: conditional().adapt(X),
        r'is missing; pass it with x, as \{"x": x, "context": context',
    ),
    "adapt endless": (lambda: flow().adapt(endless()), f"data {MUST_END}$"),
    "adapt constant": (
        lambda: flow().adapt(np.stack([X[:, 0], np.full(20, 0.1)], axis=1)),
        r"data is constant in the features \[1\]",
    ),
    "adapt iterator": (lambda: flow().adapt(iter(X)), "data must be an array"),
    "adapt complex": (lambda: flow().adapt(X.astype(complex)), "data must be an array of numbers, got dtype complex"),
    "adapt strings": (lambda: flow().adapt(X.astype(str)), "data must be an array of numbers, got dtype <U"),
    "adapt objects": (lambda: flow().adapt(X.astype(object)), "data must be an array of numbers, got dtype object"),
    "adapt masked": (lambda: flow().adapt(MASKED), "data has a NaN or infinity in 5 of its 20 rows"),
    "fit complex": (lambda: flow().fit(X.astype(complex)), "x must be an array of numbers, got dtype complex"),
    "fit strings": (lambda: flow().fit(X.astype(str)), "x must be an array of numbers, got dtype <U"),
    "fit objects": (lambda: flow().fit(X.astype(object)), "x must be an array of numbers, got dtype object"),
    "fit masked": (lambda: flow().fit(MASKED), "x has a NaN or infinity in 5 of its 20 rows"),
    "fit list": (lambda: flow().fit(X.tolist()), "x must be an array"),
    "fit no rows": (lambda: flow().fit(X[:0]), "x must have at least one row"),
    "fit no batches": (lambda: flow().fit(batches(X).take(0)), "x must have at least one batch"),
    "fit targets": (lambda: flow().fit(X, 7.0 * X), r"no targets y.*in a dataset, as \(x, x, sample_weight\)"),
    "fit targets and weights": (lambda: flow().fit(X, 7.0 * X, sample_weight=ONES), "no targets y"),
    "fit targets in a dataset": (lambda: flow().fit(batches((X, X))), "no targets y"),
    "fit class weights": (lambda: flow().fit(X, class_weight={0: 1.0}), "class_weight must be None"),
    "fit endless": (lambda: flow().fit(endless()), f"x {MUST_END}; give steps_per_epoch"),
    "fit endless PyDataset": (lambda: flow().fit(EndlessPyDataset()), f"x {MUST_END}; give steps_per_epoch"),
    "fit context argument": (lambda: conditional().fit(X, context=CONTEXT), CONTEXT_WITH_X),
    "fit labels": (lambda: conditional().fit(with_context(LABELS)), rf'x\["context"\] .* got \[20\]; {ONE_HOT}'),
    "fit labels [N, 1]": (lambda: conditional().fit(with_context(LABELS[:, np.newaxis])), rf"got \[20, 1\]; {ONE_HOT}"),
    "fit labels, dataset": (
        lambda: conditional().fit(batches(with_context(LABELS))),
        rf'x\["context"\] .* got \[None\]; {ONE_HOT}',
    ),
    "fit None": (lambda: flow().fit(None), f"x {MUST_BE_DATA} None"),
    "fit nothing": (lambda: flow().fit(), f"x {MUST_BE_DATA} None"),
    "fit number": (lambda: flow().fit(3.0), f"x {MUST_BE_DATA} 3.0"),
    "fit rank 0": (lambda: flow().fit(np.float64(3.0)), "x must"),
    "fit rank 3": (lambda: flow().fit(X[np.newaxis]), r"x must have shape \[N, 2\], got \[1, 20, 2\]"),
    "fit bytes": (lambda: flow().fit(X.astype("S5")), "x must be an array of numbers, got dtype"),
    "fit records": (lambda: flow().fit(np.zeros(20, [("a", float)])), r"x must have shape .* got \[20\]"),
    "fit mixed keys": (lambda: flow().fit({1: X, "a": X}), r"x must have the keys .* got \[.*1"),
    "fit x None": (lambda: flow().fit({"x": None}), r'x\["x"\] must be an array, got'),
    "fit extra key": (lambda: flow().fit({"x": X, "y": X}), r"x must have the keys .* got \['x', 'y'\]"),
    "fit tuple": (lambda: conditional().fit((X, CONTEXT)), r"x must be an array"),
    "fit generator": (lambda: flow().fit(row for row in X), "generator"),
    "fit dataset of wrong shape": (lambda: flow().fit(batches(np.ones((20, 3)))), r"\[N, 2\], got \[.*3\]"),
    "fit dataset of strings": (lambda: flow().fit(batches(X.astype(str))), "array of numbers, got dtype string"),
    "fit dataset of wrong keys": (lambda: flow().fit(batches({"X": X})), r"keys .* got \['X'\]"),
    "fit empty dataset": (lambda: flow().fit(empty_dataset(), verbose=0), "at least one"),
    "fit context string": (lambda: conditional().fit(with_context("ab")), r'x\["context"\] must be an array'),
    "fit context rank 1": (lambda: conditional().fit(with_context(CONTEXT[:, 0])), r'x\["context"\] .* \[20\]'),
    "fit context objects": (lambda: conditional().fit(with_context(X.astype(object))), r'x\["context"\] .* object'),
    "fit NaN in a context": (
        lambda: conditional().fit(with_context(row_3(np.nan))),
        r'x\["context"\] has a NaN or infinity in 1 of its 20 rows: 3',
    ),
    "fit context with fewer rows": (lambda: conditional().fit(with_context(X[:5])), "x: x and context .* 20 and 5"),
    "fit x and y": (lambda: conditional().fit(X, CONTEXT), "x: a flow has no targets y"),
    "validation list": (lambda: flow().fit(X, validation_data=X.tolist()), "validation_data"),
    "validation empty list": (lambda: flow().fit(X, validation_data=[]), "validation_data"),
    "validation string": (lambda: flow().fit(X, validation_data="ab"), f"validation_data {MUST_BE_DATA} 'ab'"),
    "validation shape": (lambda: flow().fit(X, validation_data=np.ones((4, 3))), r"validation_data .* got \[4, 3\]"),
    "validation masked": (lambda: flow().fit(X, validation_data=MASKED), "validation_data has a NaN or infinity in"),
    "validation weights": (
        lambda: flow().fit(X, validation_data=(X, None, ONES[:5])),
        "validation_data: sample_weight must have one weight for each of 20 rows, got 5",
    ),
    "validation context": (
        lambda: conditional().fit(with_context(CONTEXT), validation_data=with_context(row_3(np.inf))),
        r'validation_data\["context"\] has a NaN or infinity in 1 of its 20 rows: 3',
    ),
    "validation endless": (
        lambda: flow().fit(X, validation_data=endless()),
        f"validation_data {MUST_END}; give validation_steps",
    ),
    "weights for fewer rows": (
        lambda: flow().fit(X, sample_weight=ONES[:5]),
        "sample_weight must have one weight for each of 20 rows, got 5",
    ),
    "weights with two columns": (lambda: flow().fit(X, sample_weight=X), "sample_weight must"),
    "weights list": (lambda: flow().fit(X, sample_weight=[1.0] * 20), "sample_weight must be an array"),
    "weights string": (lambda: flow().fit(X, sample_weight="ab"), "sample_weight must be an array, got <class 'str'>"),
    "weights dictionary": (lambda: flow().fit(X, sample_weight={}), "sample_weight must be an array, got <class 'dict"),
    "weights rank 0": (lambda: flow().fit(X, sample_weight=np.float64(1.0)), r"sample_weight must .*got \[\]"),
    "weights complex": (lambda: flow().fit(X, sample_weight=ONES.astype(complex)), "sample_weight .* complex128"),
    "weights strings": (lambda: flow().fit(X, sample_weight=ONES.astype(str)), "sample_weight .* <U"),
    "weights strings, tensor": (lambda: flow().fit(X, sample_weight=tf.fill([20], "1")), "sample_weight .*"),
    "weights objects": (lambda: flow().fit(X, sample_weight=ONES.astype(object)), "sample_weight .* object"),
    "weights records": (lambda: flow().fit(X, sample_weight=np.zeros(20, [("a", float)])), "sample_weight"),
    "evaluate weights rank 0": (lambda: flow().evaluate(X, sample_weight=np.float64(1.0)), "sample_weight must"),
    "evaluate list": (lambda: flow().evaluate(X.tolist()), f"x {MUST_BE_DATA}"),
    "evaluate masked": (lambda: flow().evaluate(MASKED), "x has a NaN or infinity in"),
    "evaluate empty": (lambda: flow().evaluate(X[:0]), "x must have at least one row"),
    "evaluate infinite context": (
        lambda: conditional().evaluate(with_context(row_3(np.inf))),
        r'x\["context"\] has a NaN or infinity in 1 of its 20 rows: 3',
    ),
    "evaluate empty dataset": (lambda: flow().evaluate(empty_dataset(), verbose=0), "at least one"),
    "evaluate endless": (lambda: flow().evaluate(endless()), f"x {MUST_END}; give steps,"),
    "evaluate context argument": (lambda: conditional().evaluate(X, context=CONTEXT), CONTEXT_WITH_X),
    "predict endless": (lambda: flow().predict(endless()), f"x {MUST_END}; give steps,"),
    "predict context argument": (lambda: conditional().predict(X, context=CONTEXT), CONTEXT_WITH_X),
    "predict None": (lambda: flow().predict(None), f"x {MUST_BE_DATA} None"),
    "predict complex": (
        lambda: flow().predict(X.astype(complex)),
        "x must be an array of numbers, got dtype complex128",
    ),
    "predict empty": (lambda: flow().predict(X[:0]), "x must have at least one row"),
    "predict mixed keys": (lambda: flow().predict({1: X, "a": X}), r"x must have the keys .* got \[.*1"),
    "predict masked": (lambda: flow().predict(MASKED, verbose=0), "x has a NaN or infinity in"),
    "predict empty dataset": (lambda: flow().predict(empty_dataset(), verbose=0), "at least one"),
    "log_prob strings": (lambda: flow().log_prob(X.astype(str)), "x must be an array of numbers, got dtype string"),
    "log_prob complex": (lambda: flow().log_prob(X.astype(complex)), "x must be an array of numbers, got dtype comp"),
    "log_prob objects": (lambda: flow().log_prob(X.astype(object)), "x must be an array of numbers, got array"),
    "log_prob sparse": (lambda: flow().log_prob(tf.sparse.from_dense(X)), "x must be an array of numbers, got Sparse"),
    "log_prob dictionary": (lambda: flow().log_prob({"x": X}), r"x must be an array, got a dictionary of \['x'\]"),
    "log_prob dataset": (lambda: flow().log_prob(batches(X)), "x must be an array of numbers, got <_BatchDataset"),
    "log_prob masked": (lambda: flow().log_prob(MASKED), "x "),
    "log_prob context string": (lambda: conditional().log_prob(X, "ab"), "context must be an array of numbers, got dt"),
    "log_prob context ragged": (lambda: conditional().log_prob(X, [[1.0], [1.0, 2.0]]), "context must be an array"),
    "log_prob conditional dictionary": (
        lambda: conditional().log_prob(with_context(CONTEXT)),
        r"pass log_prob\(x, context\)",
    ),
    "log_prob labels": (lambda: conditional().log_prob(X, LABELS), rf"context must .* got \[20\]; {ONE_HOT}"),
    "sample labels": (lambda: conditional().sample(context=LABELS[:, np.newaxis]), rf"got \[20, 1\]; {ONE_HOT}"),
    "log_prob context rank 0": (lambda: conditional().log_prob(X, 1.0), r"context must have shape .* got \[\]"),
    "call mixed keys": (lambda: flow()({1: X, "a": X}), r"must have the keys .* got \[.*1"),
    "call pair": (lambda: conditional()((X, CONTEXT)), r"a context of shape \[\.\.\., 2\] is missing"),
    "sample context complex": (lambda: conditional().sample(2, X.astype(complex)), "context .* got dtype complex128"),
    "distribution context None in a list": (
        lambda: conditional().distribution([None, 1.0]),
        "context must be an array",
    ),
    "bijector context sparse": (lambda: conditional().bijector(tf.sparse.from_dense(X)), "context must be an array"),
}


@pytest.mark.parametrize("case", WRONG_DATA)
def test_wrong_data_are_refused(case):
    call, message = WRONG_DATA[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        call()


def test_error_names_at_most_ten_rows():
    with pytest.raises(ValueError, match=r"in 20 of its 20 rows: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\. \(as float32\)"):
        flow().fit(np.full((20, 2), np.nan))


def test_second_dataset_is_checked_like_the_first(data):
    flow = small_flow()
    wrong = tf.data.Dataset.from_tensor_slices(data[:, :1]).batch(8)
    flow.fit(tf.data.Dataset.from_tensor_slices(data).batch(8), verbose=0)
    for use in (flow.fit, flow.evaluate, flow.predict, flow.adapt):
        with pytest.raises(ValueError, match=r"must have shape \[N, 2\], got \[None, 1\]"):
            use(wrong)


def test_dataset_of_nested_arrays_is_refused(data):
    flow = small_flow()
    for nested in (((data, data),), {"x": (data, data)}):
        dataset = tf.data.Dataset.from_tensor_slices(nested).batch(8)
        for use in (flow.fit, flow.evaluate, flow.predict, flow.adapt):
            with pytest.raises(ValueError, match="must have batches of arrays, got a dataset of"):
                use(dataset)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_error_names_rows_that_are_not_finite(value):
    x = np.zeros((40, 2))
    x[[3, 17], 1] = value
    flow = small_flow()
    good = np.random.default_rng(0).normal(size=(40, 2))
    for call in (
        lambda: flow.adapt(x),
        lambda: flow.fit(x),
        lambda: flow.evaluate(x),
        lambda: flow.fit(good, validation_data=x),
        lambda: flow.fit(good, validation_data=(x, None, np.ones(40))),
        lambda: flow.fit(tf.constant(x)),
    ):
        with pytest.raises(ValueError, match="NaN or infinity in 2 of its 40 rows: 3, 17"):
            call()
    with pytest.raises(ValueError, match="sample_weight has a NaN or infinity in 1 of its 40 rows: 5"):
        flow.fit(good, sample_weight=np.where(np.arange(40) == 5, value, 1.0))
    with pytest.raises(ValueError, match="NaN or infinity"):
        flow.adapt(tf.data.Dataset.from_tensors(x))


def test_error_names_rows_too_large_for_the_dtype():
    x = np.where(np.arange(20).reshape(10, 2) == 7, 1e39, 1.0)
    flow = small_flow()
    for call in (
        lambda: flow.fit(x),
        lambda: flow.evaluate(x),
        lambda: flow.adapt(x),
        lambda: flow.fit(x[:3], validation_data=x),
        lambda: flow.fit(np.ones((10, 2)), sample_weight=x[:, 1]),
    ):
        with pytest.raises(ValueError, match=r"NaN or infinity in 1 of its 10 rows: 3 \(as float32\)"):
            call()
    assert np.all(np.isfinite(small_flow(dtype="float64").log_prob(x)))
