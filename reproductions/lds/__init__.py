"""Data attribution against retraining: the linear datamodeling score of every scorer of whence.

Three models learn real digits: a logistic regression, a multi-layer perceptron and a small
convolutional network. Each is trained again on a hundred random halves of its training images,
with several seeds; a scorer is as good as its summed scores rank these retrained models. Other
libraries are run on the same models, subsets and queries.

    python -m reproductions.lds
"""
